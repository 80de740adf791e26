"""Neighbours of a packed row that are computed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Run(NamedTuple):
    """Neighbouring sequences of one length: `size` sequences of `length` tokens from token `start` on.

    Each sees `before` tokens of a prefix, whose keys come before its own where sequences share prefixes.
    """

    start: int
    size: int
    length: int
    before: int = 0


def group(lengths: Sequence[int], before: Sequence[int] = ()) -> tuple[Run, ...]:
    """Return the runs of equal length of sequences that lie one after the other, after prefixes of such lengths."""
    runs: list[Run] = []
    start = 0
    for length, seen in zip(lengths, before or [0] * len(lengths), strict=True):
        if runs and runs[-1][2:] == (length, seen):
            runs[-1] = runs[-1]._replace(size=runs[-1].size + 1)
        else:
            runs.append(Run(start, 1, length, seen))
        start += length
    return tuple(runs)
