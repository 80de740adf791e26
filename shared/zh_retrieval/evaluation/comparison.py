"""Which of two systems is better, how sure that is, and what it costs: in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from zh_retrieval.evaluation.results import Comparison, Interval, SystemResult, Verdict
from zh_retrieval.evaluation.statistics import holm, intervals, randomisation

SIGNIFICANT = 0.05
NOTICEABLE = 0.005
"""A difference that is certain and smaller than this is said to be too small to matter."""
_SAME_MS = 0.05  # would be shown as 0.0


def compare(results: Sequence[SystemResult], query_ids: Sequence[str], metric: str, seed: int) -> list[Comparison]:
    """Return what tells the systems apart: first stages with each other, each reranked system with its first stage."""
    pairs = _pairs(results, metric)
    if not pairs or not query_ids:
        return []
    import numpy as np

    differences = np.array(
        [[a.per_query[metric][q] - b.per_query[metric][q] for a, b in pairs] for q in query_ids]
    )  # (Q, M)
    ends = intervals(differences, seed)
    p_values = randomisation(differences, seed).tolist()
    compared = []
    for index, ((system, baseline), p_adjusted) in enumerate(zip(pairs, holm(p_values), strict=True)):
        column = differences[:, index]
        extra_ms = _extra_ms(system, baseline)
        difference, interval = float(column.mean()), (float(ends[0, index]), float(ends[1, index]))
        verdict = _verdict(difference, p_adjusted, reranks=system.base is not None)
        facts = (system, baseline, metric, difference, interval, extra_ms, len(query_ids), len(pairs), verdict)
        compared.append(
            Comparison(
                system.name, baseline.name, metric, difference, interval, p_values[index], p_adjusted,
                int((column > 0).sum()), int((column < 0).sum()), int((column == 0).sum()), extra_ms, verdict,
                _sentence(*facts), _sentence_zh(*facts),
            )
        )  # fmt: skip
    return compared


def _pairs(results: Sequence[SystemResult], metric: str) -> list[tuple[SystemResult, SystemResult]]:
    """Return (judged, compared with): of two first stages the one with the higher mean is judged."""
    by_name = {result.name: result for result in results}
    first = [result for result in results if result.base is None]
    pairs = [(a, b) if a.metrics[metric] > b.metrics[metric] else (b, a) for a, b in combinations(first, 2)]
    return pairs + [(result, by_name[result.base]) for result in results if result.base in by_name]


def _extra_ms(system: SystemResult, baseline: SystemResult) -> float | None:
    dear, cheap = system.costs.ms_per_query, baseline.costs.ms_per_query
    return None if dear is None or cheap is None else dear - cheap


def _verdict(difference: float, p_adjusted: float, *, reranks: bool) -> Verdict:
    if p_adjusted >= SIGNIFICANT:
        return "no difference"
    if difference < 0:
        return "worse"
    if difference < NOTICEABLE:
        return "too small"
    return "pays" if reranks else "better"


def _sentence(
    system: SystemResult, baseline: SystemResult, metric: str, difference: float, interval: Interval,
    extra_ms: float | None, queries: int, pairs: int, verdict: Verdict,
) -> str:  # fmt: skip
    who = f"{_own_name(system)} on top of {baseline.name}" if system.base else f"{system.name} against {baseline.name}"
    low, high = (f"{end:+.3f}" for end in interval)
    cost = _cost(extra_ms)
    if verdict == "no difference" and not interval[0] <= 0 <= interval[1]:
        return f"{who}: {difference:+.3f} {metric} ({low} to {high}){cost}: {_luck(queries, pairs)}"
    if verdict == "no difference":
        return f"{who}: no difference in {metric} that {queries} questions can show ({low} to {high}){cost}"
    said = {
        "pays": "pays", "better": "better", "worse": "does not pay, it is worse" if system.base else "worse",
        "too small": "a difference too small to matter",
    }[verdict]  # fmt: skip
    return f"{who}: {difference:+.3f} {metric} ({low} to {high}){cost}: {said}"


def _sentence_zh(
    system: SystemResult, baseline: SystemResult, metric: str, difference: float, interval: Interval,
    extra_ms: float | None, queries: int, pairs: int, verdict: Verdict,
) -> str:  # fmt: skip
    who = f"{baseline.name} 之上加 {_own_name(system)}" if system.base else f"{system.name} 对比 {baseline.name}"
    low, high = (f"{end:+.3f}" for end in interval)
    cost = _cost_zh(extra_ms)
    if verdict == "no difference" and not interval[0] <= 0 <= interval[1]:
        luck = f"{queries} 个问题、{pairs} 组对比，可能只是偶然"
        return f"{who}：{metric} {difference:+.3f}（{low} 到 {high}）{cost}：{luck}"
    if verdict == "no difference":
        return f"{who}：{queries} 个问题看不出 {metric} 有差别（{low} 到 {high}）{cost}"
    said = {
        "pays": "值得", "better": "更好", "worse": "不值得，反而更差" if system.base else "更差",
        "too small": "差别太小，没有实际意义",
    }[verdict]  # fmt: skip
    return f"{who}：{metric} {difference:+.3f}（{low} 到 {high}）{cost}：{said}"


def _luck(queries: int, pairs: int) -> str:
    return f"may be chance, with {queries} questions and {pairs} comparison{'s' * (pairs > 1)}"


def _own_name(system: SystemResult) -> str:
    return system.name.removeprefix(f"{system.base} + ")


def _cost(extra_ms: float | None) -> str:
    if extra_ms is None:
        return ""
    if abs(extra_ms) < _SAME_MS:
        return ", in the same time"
    return f", {abs(extra_ms):.{_digits(extra_ms)}f} ms {'more' if extra_ms > 0 else 'less'} a query"


def _cost_zh(extra_ms: float | None) -> str:
    if extra_ms is None:
        return ""
    if abs(extra_ms) < _SAME_MS:
        return "，用时相同"
    return f"，每次查询{'多' if extra_ms > 0 else '少'}用 {abs(extra_ms):.{_digits(extra_ms)}f} 毫秒"


def _digits(value: float) -> int:
    return 0 if abs(value) >= 10 else 1
