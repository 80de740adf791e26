"""Text tables that line up, Chinese included: a wide character takes two columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Return how many terminal columns a text takes."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # marks on the character before, and what is not shown
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """Return the text padded, or cut with an ellipsis, to exactly `columns` columns; control characters are spaces."""
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    if width(text) <= columns:
        return text + " " * (columns - width(text))
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…" + " " * (columns - 1 - width(kept))


def render(header: Sequence[str], rows: Sequence[Sequence[str]], limits: Sequence[int]) -> str:
    """Return an aligned table; column i is at most `limits[i]` wide."""
    widths = [min(limit, max(width(row[i]) for row in (header, *rows))) for i, limit in enumerate(limits)]
    lines = ["  ".join(fit(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = "  ".join(fit(cell, size) for cell, size in zip(header, widths, strict=True)).rstrip()
    return "\n".join([head, "  ".join("-" * size for size in widths), *lines])
