"""Standard input by lines, which says where it has to wait for more."""

from __future__ import annotations

import codecs
import io
import select
from collections.abc import Iterator
from typing import BinaryIO

from zh_retrieval.files.reading.encodings import UTF8, is_wide


def live_lines(stream: BinaryIO, encoding: str = UTF8) -> Iterator[str | None]:
    """Yield the lines of a binary stream, and None where the next one is not there yet.

    UTF-8 may have a byte order mark; bytes that are no text become lone surrogates. Line endings become newlines.
    """
    known = codecs.getincrementaldecoder("utf-8-sig" if encoding == UTF8 else encoding)
    decoder = io.IncrementalNewlineDecoder(known("strict" if is_wide(encoding) else "surrogateescape"), translate=True)
    begun: list[str] = []  # of a line whose end has not come
    read = getattr(stream, "read1", stream.read)
    chunk = b" "
    while chunk:
        chunk = read(1 << 16)
        *ended, rest = decoder.decode(chunk, final=not chunk).split("\n")
        if ended:
            yield "".join([*begun, ended[0]]) + "\n"
            yield from (line + "\n" for line in ended[1:])
            begun = []
        if rest:
            begun.append(rest)
        if chunk and not _readable(stream):
            yield None
    if begun:
        yield "".join(begun)


def _readable(stream: BinaryIO) -> bool:
    """Return True if reading would not wait; False where the system cannot tell (pipes on Windows)."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError):  # in memory
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):
        return False
