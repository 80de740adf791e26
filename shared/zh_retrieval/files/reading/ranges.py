"""Files cut into ranges of rows, which any process can read without the rest of the file."""

from __future__ import annotations

import codecs
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np

from zh_retrieval.files.reading.encodings import UTF8, decoded, is_wide, open_text
from zh_retrieval.files.reading.formats.columns import RowGroups, check_names, column_row
from zh_retrieval.files.reading.formats.delimited import DELIMITERS, csv_reader, header_of, next_cells, table_rows
from zh_retrieval.files.reading.formats.lines import line_rows
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.rows import rows_of
from zh_retrieval.files.reading.sources import Source

_CHUNK = 1 << 24  # bytes read at a time while lines are counted


@dataclass(frozen=True, slots=True)
class Range:
    """Rows `first` (from 1) to `first + rows - 1` of a file, counted with blank lines.

    Attributes:
        source: The file.
        first: Number of its first row; of a table, of the line that the row begins at.
        rows: How many; of a file that is read from its beginning (Markdown, Arrow, UTF-16), at most so many.
        offset: Byte, unpacked, at which they begin.
        length: Bytes of them; None: they are counted from the beginning of the file.
        group: Row group of Parquet.
        skip: Rows of the row group, or of a file that is counted, before the first.
        header: Column names of a table.
    """

    source: Source
    first: int
    rows: int
    offset: int = 0
    length: int | None = None
    group: int | None = None
    skip: int = 0
    header: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """Return what a message calls it."""
        return f"rows {self.first} to {self.first + self.rows - 1} of {self.source.name}"


def plan(source: Source, rows: int, *, encoding: str = UTF8, needs: Sequence[str] = ()) -> list[Range]:
    """Return the ranges of a file, of at most `rows` rows each; [] for an empty one. Equal files give equal ranges.

    Raises:
        InputError: As `rows_of`; or the file has changed.
        OSError: It cannot be read.
    """
    source.check()
    form = source.kind.format
    if form == "parquet":
        with source.open() as stream:
            return list(_of_groups(source, RowGroups(stream, source, needs).counts, rows))
    if form in DELIMITERS and not is_wide(encoding):
        with source.open() as stream:
            return list(_of_table(source, stream, rows, encoding, needs))
    if form in ("json", "text") and not is_wide(encoding):
        with source.open() as stream:
            open_text(stream, encoding, source.name).detach()  # refuses a wrong encoding
            stream.seek(0)
            return list(_of_lines(source, stream, rows))
    count = sum(1 for _ in rows_of(source, encoding=encoding, needs=needs))
    return [Range(source, low + 1, min(rows, count - low), skip=low) for low in range(0, count, rows)]


def _of_groups(source: Source, counts: list[int], rows: int) -> Iterator[Range]:
    first = 1
    for group, count in enumerate(counts):
        for low in range(0, count, rows):
            yield Range(source, first + low, min(rows, count - low), group=group, skip=low)
        first += count


def _of_lines(source: Source, stream: BinaryIO, rows: int) -> Iterator[Range]:
    """Yield ranges of lines that end as Python ends them in text files: LF, CR LF or a lone CR."""
    begin = first = 0  # byte and line at which the range begins
    count = 0  # lines that have ended
    reached = size = 0
    for ends, read in _line_ends(stream):
        found, size = ends, read
        while count + len(found) >= first + rows:
            taken = first + rows - count
            end = int(found[taken - 1])
            yield Range(source, first + 1, rows, begin, end - begin)
            begin, first, count, found = end, first + rows, first + rows, found[taken:]
        count += len(found)
        reached = int(found[-1]) if len(found) else reached
    last = int(size > max(begin, reached))  # a line without an end
    if count + last > first:
        yield Range(source, first + 1, count + last - first, begin, size - begin)


def _line_ends(stream: BinaryIO) -> Iterator[tuple[np.ndarray, int]]:
    """Yield int64 arrays of the bytes after line ends, and how many bytes were read."""
    place = 0
    chunk = stream.read(_CHUNK)
    while chunk:
        following = stream.read(_CHUNK)
        values = np.frombuffer(chunk, dtype=np.uint8)
        ends = values == 10
        if b"\r" in chunk:
            after = np.append(values[1:], np.uint8(following[0] if following else 0))
            ends |= (values == 13) & (after != 10)
        place += len(chunk)
        yield np.flatnonzero(ends) + (place - len(chunk) + 1), place
        chunk = following


def _of_table(source: Source, stream: BinaryIO, rows: int, encoding: str, needs: Sequence[str]) -> Iterator[Range]:
    counted = _Counted(stream, encoding, source.name)
    with counted.text:
        yield from _of_cells(source, counted, rows, encoding, needs)


def _of_cells(source: Source, counted: _Counted, rows: int, encoding: str, needs: Sequence[str]) -> Iterator[Range]:
    table = csv_reader(counted, source)
    header: tuple[str, ...] | None = None
    begin, first, count = 0, 1, 0
    while (cells := next_cells(table, where := f"line {table.line_num + 1} of {source.name}")) is not None:
        if header is None:
            if any(cells):
                header = tuple(header_of(cells, where, encoding))
                check_names(header, needs, source.name)
            begin, first = counted.bytes, counted.lines + 1
            continue
        count += 1
        if count == rows:
            yield Range(source, first, rows, begin, counted.bytes - begin, header=header)
            begin, first, count = counted.bytes, counted.lines + 1, 0
    if count:
        yield Range(source, first, count, begin, counted.bytes - begin, header=header)


class _Counted:
    """Lines of text, and how many of them and of their bytes were taken."""

    def __init__(self, stream: BinaryIO, encoding: str, name: str) -> None:
        self.lines = 0
        self.bytes = 3 if encoding == UTF8 and stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(0)
        self._encoding = encoding
        self.text = open_text(stream, encoding, name, newline="")

    def __iter__(self) -> Iterator[str]:
        for line in self.text:
            self.lines += 1
            self.bytes += len(line.encode(self._encoding, "surrogateescape"))
            yield line


class RangeReader:
    """Reads ranges; one behind the last one of a file goes on from there. One thread reads, others wait."""

    def __init__(self, *, encoding: str = UTF8, needs: Sequence[str] = ()) -> None:
        """Take how files are read: see `rows_of`."""
        self._encoding = encoding
        self._needs = tuple(needs)
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._stream: BinaryIO | None = None
        self._groups: RowGroups | None = None

    def read(self, part: Range) -> list[Row]:
        """Return the rows of a range, blank lines among them.

        Raises:
            InputError: As `rows_of`; or the file has changed since it was planned.
            OSError: It cannot be read.
        """
        with self._lock:
            part.source.check()
            if part.group is None and part.length is None:
                found = rows_of(part.source, encoding=self._encoding, needs=self._needs)
                return list(islice(found, part.skip, part.skip + part.rows))
            try:
                stream = self._at(part.source, part.offset)
                return list(self._rows(part, stream))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file that is kept open."""
        with suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        self._source = self._stream = self._groups = None

    def __del__(self) -> None:
        """Close the file."""
        self.close()

    def _at(self, source: Source, offset: int) -> BinaryIO:
        """Return the stream of a file; that of packed lines is unpacked from its beginning only to go back."""
        if self._source != source or self._stream is None:
            self.close()
            self._source, self._stream = source, source.open()
        self._stream.seek(offset)
        return self._stream

    def _rows(self, part: Range, stream: BinaryIO) -> Iterator[Row]:
        source = part.source
        if part.group is not None:
            self._groups = self._groups or RowGroups(stream, source, self._needs)
            found = self._groups.read(part.group, part.skip, part.rows)
            for number, (fields, types, error) in enumerate(found, part.first):
                yield column_row(fields, types, error, number, source.name)
            return
        encoding = "utf-8-sig" if self._encoding == UTF8 and part.offset == 0 else self._encoding
        content = io.BytesIO(stream.read(-1 if part.length is None else part.length))
        if part.header is not None:
            lines = decoded(content, encoding, newline="")
            yield from table_rows(
                lines, source, self._encoding, self._needs, names=part.header, first=part.first
            )  # fmt: skip
        else:
            lines = decoded(content, encoding)
            yield from line_rows(lines, source.name, source.kind.format == "json", self._encoding, first=part.first)
