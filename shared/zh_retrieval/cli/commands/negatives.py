"""`zh-retrieval negatives`: wrong passages that look right, for a trainer of others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval import checks
from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_encoding_flag, add_load_flags, load_options
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.evaluation.dataset import Dataset
    from zh_retrieval.evaluation.negatives.mining import Mined, Rules, Scores

HELP = (
    "find hard negatives for training in your questions and passages; FlagEmbedding and sentence-transformers read it"
)
_FORMATS = ("flagembedding", "sentence-transformers")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", help="questions with answers, as eval reads them")
    parser.add_argument("--output", "-o", required=True, metavar="FILE.jsonl", help="what to write")
    parser.add_argument("--format", choices=_FORMATS, default="flagembedding", help="(default: flagembedding)")
    parser.add_argument("--model", "-m", help="as of eval; finds candidates beside BM25 (default: the built-in model)")
    parser.add_argument("--reranker", help=f"who judges, as of eval: {DEFAULT_CROSS_ENCODER}, ... (default: the model)")
    parser.add_argument("--number", type=int, default=7, metavar="N", help="negatives of a question (default 7)")
    parser.add_argument("--depth", type=int, default=50, metavar="N", help="candidates of each side (default 50)")
    parser.add_argument(
        "--margin", type=float, default=0.1, metavar="SHARE",
        help="how far below a right passage's score a negative must be; 1 is the lowest score found (default 0.1)",
    )  # fmt: skip
    parser.add_argument("--split", help="judgements of which split; all for all (default: train, if there are several)")
    parser.add_argument("--cache", metavar="FOLDER", help="where vectors and scores are kept (default: user's cache)")
    add_encoding_flag(parser)
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find, judge, write."""
    from zh_retrieval.evaluation.negatives.mining import Rules, mine
    from zh_retrieval.evaluation.negatives.writing import write_examples
    from zh_retrieval.evaluation.reading.read import read_dataset

    rules = Rules(arguments.number, arguments.margin)
    checks.whole_number("--depth", arguments.depth, "a positive whole number of passages")
    output = Path(arguments.output).expanduser()
    if output.is_dir():
        raise ConfigError(f"--output {arguments.output} is a folder. Give a file: {arguments.output}/train.jsonl")
    data = read_dataset(arguments.folder, split=arguments.split, encoding=arguments.encoding, preferred=("train",))
    mined = mine(data, _scores(data, arguments), rules)
    rows = write_examples(data, mined, output, arguments.format)
    _tell(data, mined, rules, f"{rows} rows in {output}", arguments.reranker)
    return 0


def _scores(data: Dataset, arguments: argparse.Namespace) -> Scores:
    from zh_retrieval.evaluation.negatives.judging import by_encoder, by_reranker
    from zh_retrieval.evaluation.negatives.mining import Pool
    from zh_retrieval.evaluation.systems.building import build
    from zh_retrieval.evaluation.systems.dense import Dense
    from zh_retrieval.evaluation.systems.store import Store, default_root

    store = Store(Path(arguments.cache) if arguments.cache else default_root())
    options = load_options(arguments)
    systems = build([arguments.model or DEFAULT_ENCODER], [], options, store, depth=1, bm25=True)
    dense = next((system for system in systems if isinstance(system, Dense)), None)
    if dense is None:
        raise ConfigError(f"--model {arguments.model!r} has no vectors, and BM25 is there anyway. Give an encoder.")
    pool, task = Pool(systems, arguments.depth), Pool.whole(data, show_progress=has_terminal())
    if arguments.reranker:
        return by_reranker(task, pool, arguments.reranker, options, store)
    return by_encoder(task, pool, dense)


def _tell(data: Dataset, mined: Mined, rules: Rules, where: str, reranker: str | None) -> None:
    judge = reranker or f"the dense model's cosine; a reranker judges better: --reranker {DEFAULT_CROSS_ENCODER}"
    say(
        f"{len(mined.examples)} of {mined.questions} questions have negatives, {where}. Left out: {mined.too_close} "
        f"near a right passage's score or above (margin {rules.margin:g}, judged by {judge}), {mined.near_duplicates} "
        f"with a right passage's text or another's."
    )
    if mined.without:
        shown = ", ".join(mined.without[:5]) + (", ..." if len(mined.without) > 5 else "")
        say(f"no negative for {len(mined.without)} questions: {shown}")
    if data.split != "train":
        say("evaluate on other questions than these: what was trained on shows nothing")
