"""`zh-retrieval eval`: which of the models, on the user's own data, and does reranking pay."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval import checks
from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_encoding_flag, add_load_flags, load_options
from zh_retrieval.cli.published import ShowPublished
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.evaluation.results import Evaluation

HELP = "measure models, rerankers and BM25 on questions with known answers, and say which differences are real"
_DEPTH = 50  # passages reranked, of rankings that hold as many
_OUTPUTS = ("runs", "report", "picture")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "folder", metavar="FOLDER",
        help="BEIR's or mteb's layout (corpus, queries, qrels), LlamaIndex's JSON, or a table of questions and "
        "answers: CSV, TSV or JSONL with the columns question and passage (问题, 答案)",
    )  # fmt: skip
    parser.add_argument(
        "--model", "-m", action="append", metavar="NAME[=FOLDER][,setting=value...]",
        help="repeatable; default: the built-in model. Settings: any option below, instruction=off or a text, "
        "title=off, chunk=N or late_chunking=N characters, name=; bm25 takes k1=, b=, title=; bm25+NAME,weight=0.5 "
        "is both sides' sum of z-scores",
    )  # fmt: skip
    parser.add_argument(
        "--reranker", action=_Begin, default=[], metavar="NAME[=FOLDER][,setting=value...]",
        help=f"repeatable, on top of every model and of BM25: {DEFAULT_CROSS_ENCODER}, ...; depth=N passages are read",
    )  # fmt: skip
    parser.add_argument(
        "--then", action=_GoOn, dest="reranker", metavar="NAME[=FOLDER],depth=N[,setting=value...]",
        help="repeatable: a further step after the --reranker before it, over its best N; every step is measured",
    )  # fmt: skip
    parser.add_argument("--rerank-depth", type=int, metavar="N", help="passages reranked, up to --top-k (default 50)")
    parser.add_argument("--no-bm25", action="store_true", help="leave BM25, the line to beat, out")
    add_encoding_flag(parser)
    parser.add_argument("--split", help="judgements of which split; all for all (default: test, else dev, ...)")
    parser.add_argument("--measure", action="append", default=[], help="one more measure, by ir-measures' name: P@5")
    parser.add_argument("--top-k", type=int, default=100, metavar="N", help="passages of a ranking (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of resampling (default 0)")
    parser.add_argument(
        "--sweep", action="store_true", help="also try top_k, rerank depth, threshold, chunk size, weights"
    )
    parser.add_argument("--runs", metavar="FOLDER", help="write TREC runs and JSONL of every query")
    parser.add_argument("--report", metavar="FILE.html", help="write a report to look at")
    parser.add_argument("--picture", metavar="FILE.svg|.png", help="draw quality and cost, for a slide")
    parser.add_argument(
        "--language", choices=("en", "zh"), help="of report and picture (default: the locale's; a Chinese browser "
        "shows the report in Chinese)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--published", action=ShowPublished, nargs=0, help="print C-MTEB's table with its sources")
    parser.add_argument("--cache", metavar="FOLDER", help="where vectors and scores are kept (default: user's cache)")
    add_load_flags(parser)


class _Begin(argparse.Action):
    """Begins a cascade of rerankers; most have this one step."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        """Add it."""
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (value,)])


class _GoOn(argparse.Action):
    """Adds a step to the cascade that was begun last."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        """Add it; end with a usage error if none was begun."""
        begun = getattr(namespace, self.dest)
        if not begun:
            parser.error(f"{option} {str(value)[:200]}: give --reranker first, whose best passages it reads.")
        setattr(namespace, self.dest, [*begun[:-1], (*begun[-1], value)])


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write; 1 if something that was given or asked could not be used."""
    from zh_retrieval.evaluation.evaluate import evaluate_systems
    from zh_retrieval.evaluation.metrics import names_of
    from zh_retrieval.evaluation.reading.read import read_dataset
    from zh_retrieval.evaluation.report.writing import check_outputs, write_outputs
    from zh_retrieval.evaluation.systems.building import build
    from zh_retrieval.evaluation.systems.store import Store, default_root

    checks.whole_number("--top-k", arguments.top_k, "a positive whole number")
    if arguments.rerank_depth is not None:
        checks.whole_number("--rerank-depth", arguments.rerank_depth, "a positive whole number of passages")
    names_of(arguments.measure, arguments.top_k)
    outputs = {name: Path(said) for name in _OUTPUTS if (said := getattr(arguments, name))}
    check_outputs(outputs)
    dataset = read_dataset(arguments.folder, split=arguments.split, encoding=arguments.encoding)
    store = Store(Path(arguments.cache) if arguments.cache else default_root())
    systems = build(
        arguments.model or [DEFAULT_ENCODER], arguments.reranker, load_options(arguments), store,
        depth=arguments.rerank_depth or min(_DEPTH, arguments.top_k), bm25=not arguments.no_bm25,
    )  # fmt: skip
    evaluation = evaluate_systems(
        dataset, systems, measures=arguments.measure, top_k=arguments.top_k, seed=arguments.seed,
        sweep=arguments.sweep, show_progress=has_terminal(),
    )  # fmt: skip
    write_outputs(evaluation, outputs, arguments.language)
    if arguments.report:
        say(f"report: {arguments.report}")
    print(json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1) if arguments.json else evaluation)
    return _status(evaluation)


def _status(evaluation: Evaluation) -> int:
    lost = evaluation.loses()
    if not lost:
        return 0
    kinds = ", ".join(dict.fromkeys(f"{fault.kind} ({fault.count} of {fault.total})" for fault in lost))
    say(f"some of what was given could not be used, exit status 1: {kinds}")
    return 1
