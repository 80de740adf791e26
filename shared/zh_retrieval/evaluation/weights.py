"""Which weight a hybrid's dense side deserves: chosen on one half of the questions, measured on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zh_retrieval.evaluation.metrics import per_query
from zh_retrieval.evaluation.statistics import intervals
from zh_retrieval.evaluation.systems.base import Task
from zh_retrieval.evaluation.systems.hybrid import Hybrid

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = tuple(step / 10 for step in range(11))
_LEAST = 4  # questions: of fewer, a half has one or none, which shows nothing
_HALVES = ("half_1", "half_2")

Rows = list[dict[str, Any]]


def halves(query_ids: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Return the questions in two halves at random, each in its order; of an odd number the second has one more."""
    import numpy as np

    drawn = np.random.default_rng(seed).permutation(len(query_ids))
    first = set(drawn[: len(query_ids) // 2].tolist())
    sides: tuple[list[str], list[str]] = ([], [])
    for place, query in enumerate(query_ids):
        sides[place not in first].append(query)
    return sides


def sweep_weights(task: Task, hybrids: Sequence[Hybrid], main: str, seed: int) -> tuple[Rows, Rows]:
    """Return means of each weight on both halves, and what the best of one half is worth on the other.

    A mean on the questions that chose it is too good; "gain", over the weight that the hybrid has, is measured on
    questions that had no part in the choice, with its 95 % interval. Of weights equally good the nearest to the
    hybrid's own is chosen. Empty for fewer than 4 questions.
    """
    if len(task.query_ids) < _LEAST:
        return [], []
    curves: Rows = []
    chosen: Rows = []
    parts = dict(zip(_HALVES, halves(task.query_ids, seed), strict=True))
    for hybrid in hybrids:
        values = {weight: _values(task, hybrid, weight, main) for weight in sorted({*WEIGHTS, hybrid.weight})}
        means = {
            weight: {half: sum(found[query] for query in part) / len(part) for half, part in parts.items()}
            for weight, found in values.items()
        }
        curves += [{"system": hybrid.name, "weight": weight, **found} for weight, found in means.items()]
        for here, there in (_HALVES, _HALVES[::-1]):
            best = max(means, key=lambda weight: (means[weight][here], -abs(weight - hybrid.weight)))
            gains = _column([values[best][query] - values[hybrid.weight][query] for query in parts[there]])
            low, high = intervals(gains, seed)[:, 0].tolist()
            chosen.append({
                "system": hybrid.name, "chosen_on": here, "weight": best, "measured_on": there,
                main: means[best][there], "gain": float(gains.mean()), "low": low, "high": high,
            })  # fmt: skip
    return curves, chosen


def _values(task: Task, hybrid: Hybrid, weight: float, main: str) -> Mapping[str, float]:
    rankings = hybrid.weighted(task, weight)
    return per_query(task.dataset.qrels, task.query_ids, rankings, [main])[main]


def _column(values: Sequence[float]) -> np.ndarray:
    import numpy as np

    return np.array(values)[:, None]
