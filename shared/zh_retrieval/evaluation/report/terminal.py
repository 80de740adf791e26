"""An evaluation as text: the conclusion, a table, what tells systems apart, and the faults."""

from __future__ import annotations

from collections.abc import Iterator

from zh_retrieval.evaluation.dataset import Fault
from zh_retrieval.evaluation.results import Evaluation, SystemResult
from zh_retrieval.table import render

_MEGA = 1_000_000
_NAME, _CELL = 60, 18  # columns
_SHOWN = ("R@10", "R@100", "RR@10")
_MARK = "*"


def shown(evaluation: Evaluation) -> str:
    """Return what `zh-retrieval eval` prints."""
    return "\n".join(_parts(evaluation))


def _parts(evaluation: Evaluation) -> Iterator[str]:
    data = evaluation.dataset
    split = f", split {data.split}" if data.split else ""
    made_up = ", SYNTHETIC questions" if data.synthetic else ""
    yield evaluation.conclusion.sentence
    yield f"\n{data.name}{split}: {len(data.judged)} questions, {len(data.corpus)} passages{made_up}\n"
    yield from _table(evaluation)
    if evaluation.comparisons:
        yield ""
    yield from (comparison.sentence for comparison in evaluation.comparisons)
    yield from _faults(evaluation)
    yield from _sweep(evaluation)


def _table(evaluation: Evaluation) -> Iterator[str]:
    also = [name for name in evaluation.results[0].metrics if name in _SHOWN and name != evaluation.main]
    also += [name for name in evaluation.results[0].metrics if name in evaluation.asked and name not in also]
    pairs = ("pairs",) if reranks(evaluation) else ()
    header = ("system", evaluation.main, "95 %", *also, "passages/s", "ms/query", *pairs, "index", "memory")
    rows = [_row(evaluation, result, also) for result in evaluation.ranked()]
    yield render(header, rows, (_NAME, *[_CELL] * (len(header) - 1)))
    if any(result.costs.earlier for result in evaluation.results):
        yield f"{_MARK} measured in an earlier run, under the same conditions on this machine"


def _row(evaluation: Evaluation, result: SystemResult, also: list[str]) -> tuple[str, ...]:
    costs = result.costs
    mark = _MARK if costs.earlier else ""
    pairs = (amount(costs.pairs_per_query),) if reranks(evaluation) else ()
    return (
        result.name, f"{result.metrics[evaluation.main]:.3f}", interval(result, evaluation.main),
        *(f"{result.metrics[name]:.3f}" for name in also),
        amount(costs.passages_per_second, mark=mark), amount(costs.ms_per_query, mark=mark),
        *pairs,
        amount(costs.index_bytes, _MEGA, " MB"), amount(costs.memory_bytes, _MEGA, " MB", mark),
    )  # fmt: skip


def reranks(evaluation: Evaluation) -> bool:
    """Return True if there is a system that reads pairs of question and passage."""
    return any(result.costs.pairs_per_query is not None for result in evaluation.results)


def interval(result: SystemResult, metric: str) -> str:
    """Return a 95 % interval, "-" of a single question, which shows nothing."""
    low, high = result.intervals[metric]
    return f"{low:.3f} to {high:.3f}" if low <= high else "-"


def amount(value: float | None, unit: float = 1, name: str = "", mark: str = "") -> str:
    """Return a number with as many digits as it deserves, "-" for what was not measured."""
    if value is None:
        return "-"
    number = value / unit
    return f"{number:,.{0 if number >= 10 else 1 if number >= 0.1 else 2}f}{name}{mark}"


def _faults(evaluation: Evaluation) -> Iterator[str]:
    """Yield each kind of fault once, with its count for each system where it depends on one."""
    found: list[tuple[str | None, Fault]] = [(None, fault) for fault in evaluation.faults]
    found += [(result.name, fault) for result in evaluation.results for fault in result.faults]
    kinds: dict[tuple[str, str], list[tuple[str | None, Fault]]] = {}
    for name, fault in found:
        kinds.setdefault((fault.kind, fault.message), []).append((name, fault))
    if kinds:
        yield "\nFaults, none of them averaged away:"
    for (kind, message), entries in kinds.items():
        counts = [f"{fault.count} of {fault.total}" + (f" ({name})" if name else "") for name, fault in entries]
        first = entries[0][1]
        yield f"- {kind}: {', '.join(counts)} {message}"
        yield f"  {', '.join(first.examples)}{', ...' if first.count > len(first.examples) else ''}"


def _sweep(evaluation: Evaluation) -> Iterator[str]:
    for what, rows in evaluation.sweep.items():
        if rows:
            yield f"\n{what}"
            body = [tuple(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
            yield render(tuple(rows[0]), body, [_NAME] * len(rows[0]))
