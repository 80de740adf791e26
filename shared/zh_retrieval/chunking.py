"""Late chunking: one pass over a long document, one vector for each of its spans.

Source of the method: Günther et al. 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Models".
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from zh_retrieval.errors import InputError
from zh_retrieval.layers.packing import Tokens
from zh_retrieval.local.session import Work
from zh_retrieval.tokenization.tokenizer import TextTokenizer, check_text

Span = tuple[int, int]

_SENTENCE_END = re.compile(r"[。！？!?；;\n]+[”’」』）)]*|\.(?=\s)")


def check_spans(document: str, spans: Sequence[Span]) -> None:
    """Raise InputError unless every span is a non-empty half-open range of characters of the document."""
    if isinstance(spans, (str, bytes)) or not isinstance(spans, Sequence):
        raise InputError(f"spans is {type(spans).__name__}, expected a list of (start, end).")
    for index, span in enumerate(spans):
        whole = isinstance(span, Sequence) and len(span) == 2 and all(isinstance(end, int) for end in span)
        if not whole or not 0 <= span[0] < span[1] <= len(document):
            raise InputError(f"spans[{index}] is {span!r}, expected (start, end) within {len(document)} characters.")


def sentence_spans(document: str, size: int = 300) -> list[Span]:
    """Return character spans that cover the document: whole sentences, joined up to `size` characters.

    A sentence longer than `size` stays whole. White space around a span is left out; [] for blank text.
    """
    ends = [*(match.end() for match in _SENTENCE_END.finditer(document)), len(document)]
    spans: list[Span] = []
    start = low = 0
    for end in ends:
        if end - start > size and low > start:
            spans.append((start, low))
            start = low
        low = end
    spans.append((start, low))
    return [trimmed for span in spans if (trimmed := _trim(document, span)) is not None]


def _trim(document: str, span: Span) -> Span | None:
    text = document[span[0] : span[1]]
    start = span[0] + len(text) - len(text.lstrip())
    end = start + len(text.strip())
    return (start, end) if end > start else None


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


class ChunkWork(Work):
    """The spans of one document: each is read in the macro-window that holds it best."""

    def __init__(
        self,
        document: str,
        spans: Sequence[Span],
        tokenizer: TextTokenizer,
        template: str,
        max_length: int,
        dimension: int,
    ) -> None:
        """Check everything, before any compute.

        Raises:
            InputError: The document is no valid text, a span does not lie in it, or holds nothing but white space.
        """
        check_text(document, "document")
        check_spans(document, spans)
        self.count = 1 if spans else 0
        self._document = document
        self._tokenizer = tokenizer
        self._room = max_length - tokenizer.frame_length
        head = template.split("{text}", maxsplit=1)[0]
        ids, offsets = tokenizer.ids_with_offsets(template.replace("{text}", document))
        self._ids = ids
        shifted = [(start + len(head), end + len(head)) for start, end in spans]
        self._ranges = [token_span(span, offsets) for span in shifted]
        for index, (low, high) in enumerate(self._ranges):
            if low == high:
                raise InputError(f"spans[{index}] holds no token: {document[slice(*spans[index])]!r}. Leave it out.")
        self._order: list[list[int]] = []
        self._vectors = np.empty((len(spans), dimension), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        """Return one sequence for each macro-window that some span is read in."""
        windows = macro_windows(len(self._ids), self._room)
        self._order = [[] for _ in windows]
        for index, span in enumerate(self._ranges):
            self._order[_best(span, windows)].append(index)
        first = len(self._tokenizer.prefix)
        tokens = []
        for (start, end), indices in zip(windows, self._order, strict=True):
            if indices:
                spans = tuple(
                    (max(a, start) - start + first, min(b, end) - start + first)
                    for a, b in (self._ranges[index] for index in indices)
                )
                tokens.append(Tokens(self._tokenizer.frame(self._ids[start:end], len(self._ids) + 999), spans=spans))
        return tokens

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        """Put each row at its span."""
        self._vectors[[index for indices in self._order for index in indices]] = rows

    def characters(self) -> int:
        """Return the length of the document."""
        return len(self._document)

    def vectors(self) -> np.ndarray:
        """Return float32 (S, D), row i for spans[i]."""
        return self._vectors


def _best(span: Span, windows: Sequence[tuple[int, int]]) -> int:
    """Return the window that holds most of a span; among equals the one with most text on its shorter side."""

    def rank(index: int) -> tuple[int, int]:
        low, high = windows[index]
        inside = min(span[1], high) - max(span[0], low)
        return inside, min(span[0] - low, high - span[1])

    return max(range(len(windows)), key=rank)
