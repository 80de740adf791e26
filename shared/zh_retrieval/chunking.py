"""Documents to spans of whole sentences."""

from __future__ import annotations

import re

Span = tuple[int, int]
"""Half-open range of characters."""

_SENTENCE_END = re.compile(r"[。！？!?；;\n]+[”’」』）)]*|\.(?=\s)")


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
