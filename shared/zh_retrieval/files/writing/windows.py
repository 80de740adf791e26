"""Records in windows: what is computed and kept together.

Where one ends depends on the text there, not on what is before: a line that is added, mended or removed changes its own
window, and those around it stay what they were.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence

from zh_retrieval.files.reading.records import Record


def windows(records: Iterable[Record | None], least: int) -> Iterator[list[Record]]:
    """Yield the records in lists of `least` to 4 * `least`, twice as many on average; the last one may be short.

    None, which says that no more is there for now, ends a list early.
    """
    window: list[Record] = []
    for record in records:
        if record is not None:
            window.append(record)
        if window and (record is None or _ends(window, least)):
            yield window
            window = []
    if window:
        yield window


def _ends(window: Sequence[Record], least: int) -> bool:
    if len(window) < least:
        return False
    mark = zlib.crc32(window[-1].text.encode("utf-8", "surrogatepass"))
    return len(window) >= 4 * least or mark % least == 0


def key_of(window: Sequence[Record]) -> str:
    """Return what tells a window from all others: its ids, texts and fields."""
    known = hashlib.blake2b(digest_size=16)
    for record in window:
        known.update(repr((record.id, record.text, record.fields)).encode("utf-8", "surrogatepass"))
    return known.hexdigest()
