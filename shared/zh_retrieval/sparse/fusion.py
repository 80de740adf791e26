"""One ranking of two, by the sum of z-scores: the only place that fuses, so that frameworks and evaluation agree."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from zh_retrieval.checks import whole_number
from zh_retrieval.errors import ConfigError, InputError

DEPTH = 100
"""How many results of each side count."""
WEIGHT = 0.5
"""The dense side's share."""
_EQUAL = 1e-9  # of the largest score: a deviation below it is rounding

IdT = TypeVar("IdT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fused(Generic[IdT]):
    """One result of both sides.

    Attributes:
        id: As the sides gave it.
        score: The weighted sum of z-scores; of one question only, so that those of two questions do not compare.
        dense: The dense side's score as it was given; None if it did not find this within the depth.
        lexical: The lexical side's.
    """

    id: IdT
    score: float
    dense: float | None
    lexical: float | None


def fuse(
    dense: Sequence[tuple[IdT, float]],
    lexical: Sequence[tuple[IdT, float]],
    *,
    weight: float = WEIGHT,
    depth: int = DEPTH,
) -> list[Fused[IdT]]:
    """Return all that either side found, by weight * z(dense) + (1 - weight) * z(lexical), best first.

    The rules, for one question:

    - A side is (id, score), best first; higher is better. Its first `depth` results count, fewer if it has fewer.
    - z = (score - mean) / deviation, over what counts of the side; deviation as of a whole population. Any scores do,
      negative ones too: adding to all, or multiplying all by a positive number, changes nothing.
    - What one side did not find gets that side's lowest z, and None as its score.
    - Scores that are all equal, or one alone, say nothing: their z is 0, and so is that of what is missing.
    - An empty side adds 0 to all; two empty sides give [].
    - An id that a side has twice counts where it stands first; the other is left out before `depth` is counted.
    - Equal sums: by the place in the dense side, what it did not find last; then by the place in the lexical side.

    Args:
        dense: The embedding model's side.
        lexical: The side of BM25, or of any other retriever.
        weight: The dense side's share, 0 to 1. At 0 or 1 a side does not count, but what it alone found is there.
        depth: How many results of each side count.

    Raises:
        ConfigError: `weight` is not in [0, 1], or `depth` is no positive whole number.
        InputError: A score is NaN or infinite.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise ConfigError(f"weight={weight!r} must be the dense side's share, from 0 to 1.")
    depth = whole_number("depth", depth, "a positive whole number")
    sides = [_side(dense, depth, "dense"), _side(lexical, depth, "lexical")]
    first, second = (_z_scores(side) for side in sides)
    missing = [min(side.values(), default=0.0) for side in (first, second)]
    places = [{id: place for place, id in enumerate(side)} for side in sides]
    found = [
        Fused(
            id,
            weight * first.get(id, missing[0]) + (1 - weight) * second.get(id, missing[1]),
            sides[0].get(id),
            sides[1].get(id),
        )
        for id in dict.fromkeys((*sides[0], *sides[1]))
    ]
    return sorted(found, key=lambda it: (-it.score, places[0].get(it.id, depth), places[1].get(it.id, depth)))


def _side(results: Sequence[tuple[IdT, float]], depth: int, name: str) -> dict[IdT, float]:
    """Return the scores that count by id, in their order."""
    by_id: dict[IdT, float] = {}
    for place, (id, score) in enumerate(results):
        if not math.isfinite(score):
            raise InputError(f"Result {place} of the {name} side has the score {score!r}, expected a finite number.")
        by_id.setdefault(id, score)
    return dict(islice(by_id.items(), depth))


def _z_scores(side: dict[IdT, float]) -> dict[IdT, float]:
    if not side:
        return {}
    scores = [float(score) for score in side.values()]
    largest = max(map(abs, scores)) or 1.0
    scaled = [score / largest for score in scores]  # so that no square is too large, or too small
    mean = math.fsum(scaled) / len(scaled)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scaled) / len(scaled))
    if deviation <= _EQUAL:
        return dict.fromkeys(side, 0.0)
    return {id: (score - mean) / deviation for id, score in zip(side, scaled, strict=True)}
