"""`zh-retrieval questions`: a synthetic test set from the user's own corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from zh_retrieval.cli.console import say
from zh_retrieval.cli.flags import add_encoding_flag

HELP = "make SYNTHETIC test questions from a corpus by rule, for those who have none; eval reads the result"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "corpus", metavar="CORPUS", help="corpus.jsonl (id, text, title), a folder with one, or Markdown"
    )
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="a new folder in BEIR's layout")
    add_encoding_flag(parser)
    parser.add_argument("--by", choices=("title", "sentence"), default="title", help="what asks (default: the title)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="questions at most (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="which passages are chosen (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Make and write."""
    from zh_retrieval.evaluation.questions.making import make_questions, write_questions
    from zh_retrieval.evaluation.questions.reading import read_corpus

    corpus = read_corpus(Path(arguments.corpus), arguments.encoding).corpus
    made = make_questions(corpus, kind=arguments.by, count=arguments.count, seed=arguments.seed)
    how = f"{len(made.queries)} questions by {arguments.by} from {len(corpus)} passages, seed {arguments.seed}"
    write_questions(made, Path(arguments.output), how)
    say(f"{how}: SYNTHETIC, no person asked them. Next: zh-retrieval eval {arguments.output}")
    return 0
