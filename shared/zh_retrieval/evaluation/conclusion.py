"""What to take and why, in one sentence; and where nothing can be told, that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zh_retrieval.evaluation.results import Comparison, Conclusion, SystemResult

MARGIN = 0.02
"""A cheaper system that may be this much worse at most, by the interval's end, is worth taking."""
_CHEAPER = 0.8  # of the time: what saves less is not called quicker


def conclude(
    results: Sequence[SystemResult], comparisons: Sequence[Comparison], metric: str, *, queries: int, synthetic: bool
) -> Conclusion:
    """Return which system to take.

    The best one, if it is told from every other. Else the quickest of those that the questions cannot tell from it, if
    the interval of the difference ends within `MARGIN`. Else none: there are too few questions. Of the best hybrid its
    difference to each side is said, whatever is taken.
    """
    best = max(results, key=lambda result: result.metrics[metric])
    facts = _Facts(metric, queries, best, f"{best.metrics[metric]:.3f}")
    found = _choose(results, comparisons, facts)
    english, chinese = _beside_its_sides(results, comparisons, metric)
    found = replace(found, sentence=found.sentence + english, sentence_zh=found.sentence_zh + chinese)
    if synthetic:
        found = Conclusion(
            found.take, found.tied, f"{found.sentence} The questions are synthetic: this is a hint, no more.",
            f"{found.sentence_zh}问题是合成的：仅供参考。",
        )  # fmt: skip
    return found


def _beside_its_sides(
    results: Sequence[SystemResult], comparisons: Sequence[Comparison], metric: str
) -> tuple[str, str]:
    """Return how far the best hybrid is from each of its sides, in both languages; "" where nothing shows it."""
    hybrid = max(
        (result for result in results if result.sides), key=lambda result: result.metrics[metric], default=None
    )
    if hybrid is None:
        return "", ""
    said = [
        (found.baseline, f"{found.difference:+.3f}", *(f"{end:+.3f}" for end in found.interval))
        for found in comparisons
        if found.system == hybrid.name and found.baseline in hybrid.sides and math.isfinite(found.interval[0])
    ]
    if not said:
        return "", ""
    english = " and ".join(f"{difference} ({low} to {high}) against {side}" for side, difference, low, high in said)
    chinese = "，".join(f"对比 {side} {difference}（{low} 到 {high}）" for side, difference, low, high in said)
    return f" {hybrid.name} has {metric} {english}.", f"{hybrid.name} 的 {metric}：{chinese}。"


@dataclass(frozen=True, slots=True)
class _Facts:
    metric: str
    queries: int
    best: SystemResult
    mean: str


def _choose(results: Sequence[SystemResult], comparisons: Sequence[Comparison], facts: _Facts) -> Conclusion:
    best = facts.best
    nothing = _nothing(results, facts)
    if nothing is not None:
        return nothing
    rivals = [(other, found) for other, found in _rivals(results, comparisons, best) if not _told_apart(found)]
    if not rivals:
        return _clear(results, comparisons, facts)
    tied = (best.name, *(other.name for other, _ in rivals))
    if _quickest([best, *(other for other, _ in rivals)]) is best:
        return _quick_and_best(facts, tied)
    close = {other.name: found for other, found in rivals if _at_most(found, best) <= MARGIN}
    affordable = _quickest([best, *(other for other, _ in rivals if other.name in close)])
    if affordable is None or affordable is best:
        return _undecided(facts, tied, rivals)
    return _cheaper(facts, affordable, close[affordable.name], tied)


def _nothing(results: Sequence[SystemResult], facts: _Facts) -> Conclusion | None:
    """Return why there is nothing to choose, None if there is."""
    best, metric = facts.best, facts.metric
    if best.metrics[metric] == 0:
        return Conclusion(
            None, (),
            f"Take none: no system finds a right passage ({metric} is 0). Look at the ids and the judgements.",
            f"都不能用：没有系统找到正确段落（{metric} 为 0）。请检查 id 与标注。",
        )  # fmt: skip
    if len(results) == 1:
        return Conclusion(
            None, (), f"Only {best.name} was measured, {metric} {facts.mean}: there is nothing to choose from.",
            f"只测了 {best.name}，{metric} 为 {facts.mean}：没有可比较的。",
        )  # fmt: skip
    if facts.queries < 2:
        return Conclusion(
            None, tuple(result.name for result in results), "Nothing can be told: one question shows nothing.",
            "无法判断：只有一个问题，说明不了什么。",
        )  # fmt: skip
    return None


def _rivals(
    results: Sequence[SystemResult], comparisons: Sequence[Comparison], best: SystemResult
) -> list[tuple[SystemResult, Comparison]]:
    by_pair = {frozenset((found.system, found.baseline)): found for found in comparisons}
    others = (result for result in results if result is not best)
    return [(other, by_pair[frozenset((best.name, other.name))]) for other in others]


def _told_apart(found: Comparison) -> bool:
    return found.verdict in ("pays", "better", "worse")


def _at_most(found: Comparison, best: SystemResult) -> float:
    """Return how much better the best one may be than the other, by the interval's end."""
    low, high = found.interval
    return high if found.system == best.name else -low


def _quickest(systems: Sequence[SystemResult]) -> SystemResult | None:
    """Return the one that takes clearly less time than every other; None if there is none, or a time is unknown."""
    times = [(result.costs.ms_per_query, result) for result in systems]
    known = sorted(((ms, place) for place, (ms, _) in enumerate(times) if ms is not None))
    if len(known) < len(systems) or not known:
        return None
    if len(known) > 1 and known[0][0] > _CHEAPER * known[1][0]:
        return None
    return systems[known[0][1]]


def _clear(results: Sequence[SystemResult], comparisons: Sequence[Comparison], facts: _Facts) -> Conclusion:
    best, metric = facts.best, facts.metric
    second = max((result for result in results if result is not best), key=lambda result: result.metrics[metric])
    ahead = best.metrics[metric] - second.metrics[metric]
    found = next(found for other, found in _rivals(results, comparisons, best) if other is second)
    low, high = sorted(abs(end) for end in found.interval)
    english = f", and takes {_ms(best)} ms a query ({second.name}: {_ms(second)} ms)" if _known(best, second) else ""
    chinese = f"，每次查询 {_ms(best)} 毫秒（{second.name}：{_ms(second)} 毫秒）" if _known(best, second) else ""
    return Conclusion(
        best.name, (),
        f"Take {best.name}, because it finds more than every other: {metric} {facts.mean}, {ahead:.3f} ({low:.3f} to "
        f"{high:.3f}) above {second.name}, the next, over {facts.queries} questions{english}.",
        f"选 {best.name}：找得比其他都准，{metric} 为 {facts.mean}，比第二名 {second.name} 高 {ahead:.3f}"
        f"（{low:.3f} 到 {high:.3f}，{facts.queries} 个问题）{chinese}。",
    )  # fmt: skip


def _quick_and_best(facts: _Facts, tied: tuple[str, ...]) -> Conclusion:
    best = facts.best
    return Conclusion(
        best.name, tied,
        f"Take {best.name}, because it is the quickest ({_ms(best)} ms a query) and its {facts.metric} of {facts.mean} "
        f"is the highest; {facts.queries} questions cannot tell it from {_listed(tied[1:])}.",
        f"选 {best.name}：最快（每次查询 {_ms(best)} 毫秒），{facts.metric} {facts.mean} 也最高；{facts.queries} 个问题"
        f"看不出它与 {_listed_zh(tied[1:])} 有差别。",
    )  # fmt: skip


def _cheaper(facts: _Facts, taken: SystemResult, found: Comparison, tied: tuple[str, ...]) -> Conclusion:
    best, least = facts.best, max(0.0, _at_most(found, facts.best))
    return Conclusion(
        taken.name, tied,
        f"Take {taken.name}, because it is the quickest ({_ms(taken)} ms a query, {best.name} {_ms(best)} ms) and "
        f"{facts.queries} questions show no difference that matters: its {facts.metric} is at most {least:.3f} below "
        f"that of {best.name}, {facts.mean}.",
        f"选 {taken.name}：最快（每次查询 {_ms(taken)} 毫秒，{best.name} 为 {_ms(best)} 毫秒），而 {facts.queries} "
        f"个问题看不出有意义的差别：{facts.metric} 最多比 {best.name}（{facts.mean}）低 {least:.3f}。",
    )  # fmt: skip


def _undecided(facts: _Facts, tied: tuple[str, ...], rivals: Sequence[tuple[SystemResult, Comparison]]) -> Conclusion:
    most = max(_at_most(found, facts.best) for _, found in rivals)
    return Conclusion(
        None, tied,
        f"Nothing to choose yet: {facts.queries} questions cannot tell {_listed(tied)} apart. {facts.best.name} is "
        f"ahead ({facts.metric} {facts.mean}), which may be chance, and may be up to {most:.3f} better. Ask more "
        "questions, or choose by cost.",
        f"还不能选：{facts.queries} 个问题分不出 {_listed_zh(tied)} 的高下。{facts.best.name} 领先（{facts.metric} "
        f"{facts.mean}），可能只是偶然，也可能好到 {most:.3f}。请增加问题，或按成本选。",
    )  # fmt: skip


def _known(*systems: SystemResult) -> bool:
    return all(system.costs.ms_per_query is not None for system in systems)


def _ms(system: SystemResult) -> str:
    ms = system.costs.ms_per_query or 0.0
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}" if ms >= 0.1 else f"{ms:.2f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _listed_zh(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{'、'.join(names[:-1])} 和 {names[-1]}"
