"""Which of two systems is better, how sure that is, and what it costs: in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from zh_retrieval.evaluation.results import Comparison, Interval, SystemResult, Verdict
from zh_retrieval.evaluation.statistics import holm, intervals, randomisation

SIGNIFICANT = 0.05
NOTICEABLE = 0.005
"""A difference that is certain and smaller than this is said to be too small to matter."""
_SAME_MS = 0.05  # would be shown as 0.0


def compare(results: Sequence[SystemResult], query_ids: Sequence[str], metric: str, seed: int) -> list[Comparison]:
    """Return what tells the systems apart.

    Compared are first stages, each hybrid and its sides, each reranked system and what it stands on, step by step,
    rerankers on top of one first stage, and the best system and every other. p-values are corrected for all pairs there
    are: the best one is known only afterwards.
    """
    pairs = [_better_first(a, b, metric) for a, b in combinations(results, 2)]
    if not pairs or not query_ids:
        return []
    import numpy as np

    differences = np.array(
        [[a.per_query[metric][q] - b.per_query[metric][q] for a, b in pairs] for q in query_ids]
    )  # (Q, M)
    ends = intervals(differences, seed)
    p_values = randomisation(differences, seed).tolist()
    best = max(results, key=lambda result: result.metrics[metric])
    compared = []
    for index, ((system, baseline), p_adjusted) in enumerate(zip(pairs, holm(p_values), strict=True)):
        if not _of_interest(system, baseline, best):
            continue
        column = differences[:, index]
        extra_ms, extra_pairs = _extra_ms(system, baseline), _extra_pairs(system, baseline)
        difference, interval = float(column.mean()), (float(ends[0, index]), float(ends[1, index]))
        verdict = _verdict(difference, p_adjusted, reranks=baseline.name in system.below)
        facts = _Facts(
            system, baseline, metric, difference, interval, extra_ms, extra_pairs, len(query_ids), len(pairs), verdict
        )
        compared.append(
            Comparison(
                system.name, baseline.name, metric, difference, interval, p_values[index], p_adjusted,
                int((column > 0).sum()), int((column < 0).sum()), int((column == 0).sum()), extra_ms, extra_pairs,
                verdict, facts.english(), facts.chinese(),
            )
        )  # fmt: skip
    return sorted(compared, key=lambda found: _place(found, results))


def _better_first(a: SystemResult, b: SystemResult, metric: str) -> tuple[SystemResult, SystemResult]:
    """Return (judged, compared with): what is built on the other is judged; else the one with the higher mean."""
    if _on(b, a) or _on(a, b):
        return (b, a) if _on(b, a) else (a, b)
    return (a, b) if a.metrics[metric] > b.metrics[metric] else (b, a)


def _on(system: SystemResult, other: SystemResult) -> bool:
    return other.name in system.below or other.name in system.sides


def _of_interest(system: SystemResult, baseline: SystemResult, best: SystemResult) -> bool:
    first_stages = not system.below and not baseline.below
    return first_stages or _first_stage(system) == _first_stage(baseline) or best in (system, baseline)


def _first_stage(system: SystemResult) -> str:
    return (system.name, *system.below)[-1]


def _place(found: Comparison, results: Sequence[SystemResult]) -> tuple[int, int, int]:
    """Return where a comparison stands: first stages, then what reranks them, then the best and the rest."""
    by_name = {result.name: (place, result.base) for place, result in enumerate(results)}
    (place, base), (other, other_base) = by_name[found.system], by_name[found.baseline]
    group = 0 if base is other_base is None else 1 if base == found.baseline else 2
    return group, min(place, other), max(place, other)


def _extra_ms(system: SystemResult, baseline: SystemResult) -> float | None:
    dear, cheap = system.costs.ms_per_query, baseline.costs.ms_per_query
    return None if dear is None or cheap is None else dear - cheap


def _extra_pairs(system: SystemResult, baseline: SystemResult) -> float | None:
    if baseline.name not in system.below or system.costs.pairs_per_query is None:
        return None
    return system.costs.pairs_per_query - (baseline.costs.pairs_per_query or 0.0)


def _verdict(difference: float, p_adjusted: float, *, reranks: bool) -> Verdict:
    if p_adjusted >= SIGNIFICANT:
        return "no difference"
    if difference < 0:
        return "worse"
    if difference < NOTICEABLE:
        return "too small"
    return "pays" if reranks else "better"


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a sentence says."""

    system: SystemResult
    baseline: SystemResult
    metric: str
    difference: float
    interval: Interval
    extra_ms: float | None
    extra_pairs: float | None
    queries: int
    pairs: int
    verdict: Verdict

    def english(self) -> str:
        who = (
            f"{self._own_name()} on top of {self.baseline.name}" if self._reranks()
            else f"{self.system.name} against {self.baseline.name}"
        )  # fmt: skip
        cost = _cost(self.extra_ms, self.extra_pairs)
        if self.queries < 2:
            return f"{who}: {self.difference:+.3f} {self.metric}{cost}: one question shows nothing"
        low, high = (f"{end:+.3f}" for end in self.interval)
        if self._unseen():
            return (
                f"{who}: no difference in {self.metric} that {self.queries} questions can show ({low} to {high}){cost}"
            )
        said = {
            "no difference": _luck(self.queries, self.pairs), "pays": "pays", "better": "better",
            "worse": "does not pay, it is worse" if self._reranks() else "worse",
            "too small": "a difference too small to matter",
        }[self.verdict]  # fmt: skip
        return f"{who}: {self.difference:+.3f} {self.metric} ({low} to {high}){cost}: {said}"

    def chinese(self) -> str:
        who = (
            f"{self.baseline.name} 之上加 {self._own_name()}" if self._reranks()
            else f"{self.system.name} 对比 {self.baseline.name}"
        )  # fmt: skip
        cost = _cost_zh(self.extra_ms, self.extra_pairs)
        if self.queries < 2:
            return f"{who}：{self.metric} {self.difference:+.3f}{cost}：一个问题说明不了什么"
        low, high = (f"{end:+.3f}" for end in self.interval)
        if self._unseen():
            return f"{who}：{self.queries} 个问题看不出 {self.metric} 有差别（{low} 到 {high}）{cost}"
        said = {
            "no difference": f"{self.queries} 个问题、{self.pairs} 组对比，可能只是偶然",
            "pays": "值得",
            "better": "更好",
            "worse": "不值得，反而更差" if self._reranks() else "更差",
            "too small": "差别太小，没有实际意义",
        }[self.verdict]
        return f"{who}：{self.metric} {self.difference:+.3f}（{low} 到 {high}）{cost}：{said}"

    def _reranks(self) -> bool:
        return self.baseline.name in self.system.below

    def _own_name(self) -> str:
        return self.system.name.removeprefix(f"{self.baseline.name} + ")

    def _unseen(self) -> bool:
        return self.verdict == "no difference" and self.interval[0] <= 0 <= self.interval[1]


def _luck(queries: int, pairs: int) -> str:
    return f"may be chance, with {queries} questions and {pairs} comparison{'s' * (pairs > 1)}"


def _cost(extra_ms: float | None, extra_pairs: float | None) -> str:
    read = "" if extra_pairs is None else f" for {_pairs(extra_pairs)} pairs"
    if extra_ms is None:
        return read and f",{read}"
    if abs(extra_ms) < _SAME_MS:
        return f", in the same time{read}"
    return f", {abs(extra_ms):.{_digits(extra_ms)}f} ms {'more' if extra_ms > 0 else 'less'} a query{read}"


def _cost_zh(extra_ms: float | None, extra_pairs: float | None) -> str:
    read = "" if extra_pairs is None else f"，读 {_pairs(extra_pairs)} 对"
    if extra_ms is None:
        return read
    if abs(extra_ms) < _SAME_MS:
        return f"，用时相同{read}"
    return f"，每次查询{'多' if extra_ms > 0 else '少'}用 {abs(extra_ms):.{_digits(extra_ms)}f} 毫秒{read}"


def _pairs(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _digits(value: float) -> int:
    return 0 if abs(value) >= 10 else 1
