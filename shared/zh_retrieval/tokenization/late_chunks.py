"""Where the tokens of a span lie, and which window of a long document reads it best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from numbers import Integral
from operator import itemgetter

from zh_retrieval.errors import InputError

Span = tuple[int, int]
"""Half-open range of characters or of tokens."""


def check_spans(document: str, spans: Sequence[Span]) -> list[Span]:
    """Return the spans as pairs of int; each is a non-empty half-open range of characters of the document.

    Raises:
        InputError: A span is not; the message names its index.
    """
    if isinstance(spans, (str, bytes)) or not isinstance(spans, Sequence):
        raise InputError(f"spans is {type(spans).__name__}, expected a list of (start, end).")
    checked = []
    for index, span in enumerate(spans):
        whole = isinstance(span, Sequence) and len(span) == 2 and all(isinstance(end, Integral) for end in span)
        if not whole or not 0 <= span[0] < span[1] <= len(document):
            raise InputError(f"spans[{index}] is {span!r}, expected (start, end) within {len(document)} characters.")
        checked.append((int(span[0]), int(span[1])))
    return checked


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


def spans_of_tokens(spans: Sequence[Span], document: Span, offsets: Sequence[Span]) -> list[Span]:
    """Return the tokens that each span is read from; empty only where the document has no token at all.

    A span of characters that the tokenizer drops (white space, zero-width or control characters) gets the tokens of
    the character before it that has one, or of the one after it where none is before.

    Args:
        spans: Characters, all within `document`.
        document: Characters of the document: a template may stand around it.
        offsets: Characters of each token, in order.
    """
    first, last = token_span(document, offsets)
    found = []
    for span in spans:
        low, high = token_span(span, offsets)
        if low == high and first < last:
            near = min(max(low - 1, first), last - 1)
            low, high = token_span(offsets[near], offsets)
            low, high = max(first, min(low, near)), min(last, max(high, near + 1))
        found.append((low, high))
    return found


def best_window(span: Span, windows: Sequence[tuple[int, int]]) -> int:
    """Return the window that holds most of a span; among equals the one with most text on its shorter side.

    Both fall with the distance between the window's middle and the span's: it is the nearest window, and of two that
    are as near the first.

    Args:
        span: Tokens.
        windows: As `macro_windows` gives them: in order, all of one size.
    """
    low, high = windows[0]
    target = span[0] + span[1] - (high - low)  # twice the start of a window around the span's middle
    after = bisect_left(windows, target, key=lambda window: 2 * window[0])
    if after == 0:
        return 0
    if after == len(windows) or target - 2 * windows[after - 1][0] <= 2 * windows[after][0] - target:
        return after - 1
    return after
