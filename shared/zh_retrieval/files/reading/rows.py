"""Rows as they stand in files of any format: one table says which reader a format has."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import BinaryIO, TextIO

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import UTF8, open_text
from zh_retrieval.files.reading.formats.columns import RowGroups, column_row, column_rows
from zh_retrieval.files.reading.formats.delimited import DELIMITERS, table_rows
from zh_retrieval.files.reading.formats.lines import line_rows
from zh_retrieval.files.reading.formats.markdown import passage_rows
from zh_retrieval.files.reading.kinds import COLUMNS, Format
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.sources import Source

Read = Callable[[BinaryIO, Source, str, Sequence[str]], Iterator[Row]]
"""Reads unpacked bytes; takes the file that they are from, its encoding, and the columns that a table must have."""


def rows_of(source: Source, *, encoding: str = UTF8, needs: Sequence[str] = ()) -> Generator[Row, None, None]:
    """Yield the rows of a file in order, one at a time, blank lines among them; memory stays flat.

    JSON lines and tables have the fields that they have; a line of text is {"id", "text"}, a passage of Markdown
    {"id", "title", "text"}. `needs` are columns that a table must have.

    Raises:
        InputError: The file is not what its name says, lacks a column of `needs`, or is a table with a quote in the
            wrong place, after which nobody knows where rows begin.
        OSError: It cannot be read.
    """
    with source.open() as stream:
        yield from READERS[source.kind.format](stream, source, encoding, needs)


def check_columns(source: Source, *, encoding: str = UTF8, needs: Sequence[str] = ()) -> None:
    """Raise InputError if a file that has columns lacks one of `needs`, or is none: only its beginning is read."""
    if source.kind.format == "parquet":
        with source.open() as stream:
            RowGroups(stream, source, needs)
    elif source.kind.format in (*DELIMITERS, *COLUMNS):
        with closing(rows_of(source, encoding=encoding, needs=needs)) as rows:
            next((row for row in rows if not row.blank), None)


def _columns(stream: BinaryIO, source: Source, encoding: str, needs: Sequence[str]) -> Iterator[Row]:
    for number, (fields, types, error) in enumerate(column_rows(stream, source, needs), 1):
        yield column_row(fields, types, error, number, source.name)


def _table(stream: BinaryIO, source: Source, encoding: str, needs: Sequence[str]) -> Iterator[Row]:
    with _text(stream, source, encoding, newline="") as text:
        yield from table_rows(text, source, encoding, needs)


def _markdown(stream: BinaryIO, source: Source, encoding: str, needs: Sequence[str]) -> Iterator[Row]:
    with _text(stream, source, encoding) as text:
        yield from passage_rows(text.read(), source.name, encoding)


def _lines(stream: BinaryIO, source: Source, encoding: str, needs: Sequence[str]) -> Iterator[Row]:
    with _text(stream, source, encoding) as text:
        yield from line_rows(text, source.name, source.kind.format == "json", encoding)


@contextmanager
def _text(stream: BinaryIO, source: Source, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    try:
        with open_text(stream, encoding, source.name, newline=newline) as text:
            yield text
    except UnicodeError as error:
        reason = str(getattr(error, "reason", error))
        raise InputError(f"{source.name} is not {encoding.upper()}: {reason}.") from None


READERS: dict[Format, Read] = {
    "json": _lines, "text": _lines, "csv": _table, "tsv": _table, "markdown": _markdown, "parquet": _columns,
    "arrow": _columns,
}  # fmt: skip
