"""Where the tokens of a span lie, and which window of a long document reads it best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

from zh_retrieval.errors import InputError

Span = tuple[int, int]
"""Half-open range of characters or of tokens."""


def check_spans(document: str, spans: Sequence[Span]) -> None:
    """Raise InputError unless every span is a non-empty half-open range of characters of the document."""
    if isinstance(spans, (str, bytes)) or not isinstance(spans, Sequence):
        raise InputError(f"spans is {type(spans).__name__}, expected a list of (start, end).")
    for index, span in enumerate(spans):
        whole = isinstance(span, Sequence) and len(span) == 2 and all(isinstance(end, int) for end in span)
        if not whole or not 0 <= span[0] < span[1] <= len(document):
            raise InputError(f"spans[{index}] is {span!r}, expected (start, end) within {len(document)} characters.")


def macro_windows(count: int, room: int) -> list[tuple[int, int]]:
    """Return half-open token ranges of at most `room` tokens that cover `count` tokens and overlap by a quarter."""
    if count <= room:
        return [(0, count)]
    step = max(1, room - room // 4)
    lows = [*range(0, count - room, step), count - room]
    return [(low, low + room) for low in lows]


def token_span(span: Span, offsets: Sequence[Span]) -> Span:
    """Return the half-open range of tokens that share a character with `span`; empty if none does.

    Args:
        span: Characters.
        offsets: Characters of each token, in order.
    """
    low = bisect_right(offsets, span[0], key=itemgetter(1))
    high = bisect_left(offsets, span[1], key=itemgetter(0))
    return low, max(low, high)


def best_window(span: Span, windows: Sequence[tuple[int, int]]) -> int:
    """Return the window that holds most of a span; among equals the one with most text on its shorter side."""

    def rank(index: int) -> tuple[int, int]:
        low, high = windows[index]
        inside = min(span[1], high) - max(span[0], low)
        return inside, min(span[0] - low, high - span[1])

    return max(range(len(windows)), key=rank)
