"""`zh-retrieval eval`: which of the models, on the user's own data, and does reranking pay."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.cli.published import ShowPublished
from zh_retrieval.cli.table import render
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.evaluation.dataset import Fault
    from zh_retrieval.evaluation.results import Evaluation, SystemResult

HELP = "measure models, rerankers and BM25 on questions with known answers, and say which differences are real"
_MEGA = 1_000_000


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "folder", metavar="FOLDER",
        help="BEIR's or mteb's layout (corpus, queries, qrels), LlamaIndex's JSON, or JSONL of question and passage",
    )  # fmt: skip
    parser.add_argument(
        "--model", "-m", action="append", metavar="NAME[=FOLDER][,setting=value...]",
        help="repeatable; default: the built-in model. Settings: any option below, instruction=off or a text, "
        "title=off, chunk=N or late_chunking=N characters, name=; bm25 takes k1=, b=, title=",
    )  # fmt: skip
    parser.add_argument(
        "--reranker", action="append", default=[], metavar="NAME[=FOLDER][,setting=value...]",
        help=f"repeatable, on top of every model and of BM25: {DEFAULT_CROSS_ENCODER}, ...",
    )  # fmt: skip
    parser.add_argument("--rerank-depth", type=int, default=50, metavar="N", help="passages reranked (default 50)")
    parser.add_argument("--no-bm25", action="store_true", help="leave BM25, the line to beat, out")
    parser.add_argument("--split", help="judgements of which split; all for all (default: test, else dev, ...)")
    parser.add_argument("--measure", action="append", default=[], help="one more measure, by ir-measures' name: P@5")
    parser.add_argument("--top-k", type=int, default=100, metavar="N", help="passages of a ranking (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of resampling (default 0)")
    parser.add_argument("--sweep", action="store_true", help="also try top_k, rerank depth, threshold and chunk size")
    parser.add_argument("--runs", metavar="FOLDER", help="write TREC runs and JSONL of every query")
    parser.add_argument("--report", metavar="FILE.html", help="write a report to look at")
    parser.add_argument("--picture", metavar="FILE.svg|.png", help="draw quality against cost, for a slide")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--published", action=ShowPublished, nargs=0, help="print C-MTEB's table with its sources")
    parser.add_argument("--cache", metavar="FOLDER", help="where vectors and scores are kept (default: user's cache)")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write."""
    from zh_retrieval.evaluation.evaluate import evaluate_systems
    from zh_retrieval.evaluation.metrics import MEASURES
    from zh_retrieval.evaluation.reading.read import read_dataset
    from zh_retrieval.evaluation.report import check_picture, write, write_picture
    from zh_retrieval.evaluation.runs import write_runs
    from zh_retrieval.evaluation.systems.building import build
    from zh_retrieval.evaluation.systems.store import Store, default_root

    if arguments.picture:
        check_picture(Path(arguments.picture))
    dataset = read_dataset(arguments.folder, split=arguments.split)
    store = Store(Path(arguments.cache) if arguments.cache else default_root())
    systems = build(
        arguments.model or [DEFAULT_ENCODER], arguments.reranker, load_options(arguments), store,
        depth=arguments.rerank_depth, bm25=not arguments.no_bm25,
    )  # fmt: skip
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks to be heard at level DEBUG
    evaluation = evaluate_systems(
        dataset, systems, measures=(*MEASURES, *arguments.measure), top_k=arguments.top_k, seed=arguments.seed,
        sweep=arguments.sweep, show_progress=has_terminal(),
    )  # fmt: skip
    if arguments.runs:
        write_runs(evaluation, Path(arguments.runs))
    if arguments.report:
        write(evaluation, Path(arguments.report))
        say(f"report: {arguments.report}")
    if arguments.picture:
        write_picture(evaluation, Path(arguments.picture))
    if arguments.json:
        print(json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1))
    else:
        _print(evaluation)
    return 0


def _print(evaluation: Evaluation) -> None:
    data = evaluation.dataset
    split = f", split {data.split}" if data.split else ""
    made_up = ", SYNTHETIC questions" if data.synthetic else ""
    print(f"{data.name}{split}: {len(data.judged)} questions, {len(data.corpus)} passages{made_up}\n")
    header = ("system", evaluation.main, "95 %", "R@10", "R@100", "RR@10", "passages/s", "ms/query", "index", "memory")
    print(render(header, [_row(evaluation, result) for result in evaluation.results], (60, *[16] * 9)))
    if evaluation.comparisons:
        print()
    for comparison in evaluation.comparisons:
        print(comparison.sentence)
    _print_faults(evaluation)
    _print_sweep(evaluation)


def _row(evaluation: Evaluation, result: SystemResult) -> tuple[str, ...]:
    low, high = result.intervals[evaluation.main]
    costs = result.costs
    return (
        result.name, f"{result.metrics[evaluation.main]:.3f}", f"{low:.3f} to {high:.3f}",
        *(f"{result.metrics[name]:.3f}" for name in ("R@10", "R@100", "RR@10")),
        _size(costs.passages_per_second), _size(costs.ms_per_query),
        _size(costs.index_bytes, _MEGA, " MB"), _size(costs.memory_bytes, _MEGA, " MB"),
    )  # fmt: skip


def _size(value: float | None, unit: float = 1, name: str = "") -> str:
    if value is None:
        return "-"
    amount = value / unit
    return f"{amount:.0f}{name}" if amount >= 10 else f"{amount:.1f}{name}"


def _print_faults(evaluation: Evaluation) -> None:
    """Print each kind of fault once, with its count for each system where it depends on one."""
    found: list[tuple[str | None, Fault]] = [(None, fault) for fault in evaluation.faults]
    found += [(result.name, fault) for result in evaluation.results for fault in result.faults]
    kinds: dict[tuple[str, str], list[tuple[str | None, Fault]]] = {}
    for name, fault in found:
        kinds.setdefault((fault.kind, fault.message), []).append((name, fault))
    if kinds:
        print("\nFaults, none of them averaged away:")
    for (kind, message), entries in kinds.items():
        counts = [f"{fault.count} of {fault.total}" + (f" ({name})" if name else "") for name, fault in entries]
        first = entries[0][1]
        print(f"- {kind}: {', '.join(counts)} {message}")
        print(f"  {', '.join(first.examples)}{', ...' if first.count > len(first.examples) else ''}")


def _print_sweep(evaluation: Evaluation) -> None:
    for what, rows in evaluation.sweep.items():
        if rows:
            print(f"\n{what}")
            header = tuple(rows[0])
            body = [tuple(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
            print(render(header, body, [60] * len(header)))
