"""Documents to spans of whole sentences."""

from __future__ import annotations

import re
import unicodedata

Span = tuple[int, int]
"""Half-open range of characters."""

_SENTENCE_END = re.compile(r"[。！？!?；;\n]+[”’」』）)]*|\.(?=\s)")


def sentence_spans(document: str, size: int = 300) -> list[Span]:
    """Return character spans that cover the document: whole sentences, joined up to `size` characters.

    A sentence longer than `size` stays whole. White space around a span is left out. Every span holds something to
    read: what would only hold marks, control or zero-width characters, which a tokenizer may drop, goes to the span
    before it, or after it at the start of the document. [] for a document without anything else.
    """
    ends = [*(match.end() for match in _SENTENCE_END.finditer(document)), len(document)]
    spans: list[Span] = []
    start = low = 0
    visible = _first_visible(document, start)
    for end in ends:
        if end - start > size and low > visible:
            spans.append((start, low))
            start = low
            visible = _first_visible(document, start)
        low = end
    if low > visible:
        spans.append((start, low))
    elif spans:
        spans[-1] = (spans[-1][0], low)
    return [_trim(document, span) for span in spans]


def _first_visible(document: str, start: int) -> int:
    """Return the place of the first letter, digit, symbol or punctuation mark; the document's length if none follows.

    Unassigned and private characters count as invisible: BERT's tokenizers drop them.
    """
    for place in range(start, len(document)):
        if unicodedata.category(document[place])[0] not in "CMZ":
            return place
    return len(document)


def _trim(document: str, span: Span) -> Span:
    text = document[span[0] : span[1]]
    start = span[0] + len(text) - len(text.lstrip())
    return start, start + len(text.strip())
