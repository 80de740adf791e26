"""Scores to an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zh_retrieval.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking: its index in the input, and its score."""

    index: int
    score: float


def rank_scores(scores: Sequence[float], top_n: int | None = None) -> list[Ranked]:
    """Return the best `top_n` (None: all), best first; equal scores keep the order of the input.

    Raises:
        ConfigError: `top_n` is not a positive whole number.
    """
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise ConfigError(f"top_n={top_n!r} must be a positive whole number, or None for all.")
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [Ranked(index, float(scores[index])) for index in order[:top_n]]
