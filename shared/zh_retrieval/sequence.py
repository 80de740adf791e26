"""Sequences of token ids, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence as the model sees it, and what is read from it.

    Attributes:
        ids: Token ids, special tokens included; never empty.
        spans: Half-open token ranges, one result row each (late chunking); None reads the whole sequence as one row.
        weight_rows: Rows after these that hold a weight for each token, one after the other, filled up with 0 (sparse).
        targets: Ids that the last `len(targets)` positions must predict (query likelihood).
        shared: How many of the first ids other sequences of its call begin with, too; at least one id comes after them,
            and nothing is read from them. An engine may compute them once.
        instructed: The shared ids are an instruction's, with which later calls begin, too.
        second: Where the second text of a pair begins, whose tokens have the type 1; None: all have the type 0.
    """

    ids: Sequence[int]
    spans: tuple[tuple[int, int], ...] | None = None
    targets: tuple[int, ...] = ()
    shared: int = 0
    instructed: bool = False
    weight_rows: int = 0
    second: int | None = None

    @property
    def rows(self) -> int:
        """Return how many result rows this sequence gives."""
        return (1 if self.spans is None else len(self.spans)) + self.weight_rows

    def after(self, count: int) -> Tokens:
        """Return what is left of it after so many shared ids; itself after none."""
        return Tokens(self.ids[count:], targets=self.targets) if count else self


def weight_rows(length: int, width: int) -> int:
    """Return how many rows of `width` numbers hold one for each of `length` tokens."""
    return -(-length // width)


def row_places(tokens: Sequence[Tokens], width: int) -> tuple[list[int], list[range]]:
    """Return which result rows are vectors, and per sequence where its weights stand in the rows' numbers, () if none.

    Rows of one sequence follow each other: its vectors, then those of its weights.
    """
    vectors: list[int] = []
    weights: list[range] = []
    row = 0
    for item in tokens:
        vectors += range(row, row + item.rows - item.weight_rows)
        row += item.rows
        first = (row - item.weight_rows) * width
        weights.append(range(first, first + (len(item.ids) if item.weight_rows else 0)))
    return vectors, weights


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return the indices, longest first, ties in their order; neighbours of equal length share attention calls."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
