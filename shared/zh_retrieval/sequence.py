"""Sequences of token ids, their order, and how many fit a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence as the model sees it, and what is read from it.

    Attributes:
        ids: Token ids, special tokens included; never empty.
        spans: Half-open token ranges, one result row each (late chunking); None reads the whole sequence as one row.
        targets: Ids that the last `len(targets)` positions must predict (query likelihood).
    """

    ids: Sequence[int]
    spans: tuple[tuple[int, int], ...] | None = None
    targets: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Return how many result rows this sequence gives."""
        return 1 if self.spans is None else len(self.spans)


def fill(lengths: Sequence[int], budget: int) -> int:
    """Return how many leading sequences fit into `budget` tokens; at least 1 if there is any."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > budget and count:
            return count
    return len(lengths)


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return the batches as lists of indices: every index once, longest first, at most `budget` tokens a batch.

    A sequence longer than the budget gets a batch of its own. Ties keep their order.
    """
    order = by_length(lengths)
    batches: list[list[int]] = []
    while order:
        count = fill([lengths[index] for index in order], budget)
        batches.append(order[:count])
        order = order[count:]
    return batches


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return the indices, longest first, ties in their order; neighbours of equal length share attention calls."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
