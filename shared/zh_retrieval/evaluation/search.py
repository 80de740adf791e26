"""Exact search: every vector is looked at, block by block."""

from __future__ import annotations

from collections.abc import Sequence


def order(ids: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Return the ids by score, the highest first; of equal scores the greater id first, as trec_eval does."""
    by_id = sorted(zip(ids, scores, strict=True), reverse=True)
    return [name for name, _ in sorted(by_id, key=lambda pair: -pair[1])]
