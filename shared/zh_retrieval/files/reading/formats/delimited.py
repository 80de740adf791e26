"""CSV and TSV with a header: a row for each line of the table, which may be several lines of the file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import check_decoded
from zh_retrieval.files.reading.formats.columns import check_names, named
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.sources import Source

_LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131 072
DELIMITERS = {"csv": ",", "tsv": "\t"}


def table_rows(
    lines: Iterable[str], source: Source, encoding: str, needs: Sequence[str], *,
    names: Sequence[str] | None = None, first: int = 1,
) -> Iterator[Row]:  # fmt: skip
    """Yield a row for each of a table with a header; `names` are those of a header that was read before.

    Args:
        lines: With their ends, as they are.
        source: The file they are from.
        encoding: Of the file.
        needs: Columns that must be there.
        names: The header; None: the first line that holds something.
        first: Number of the first line.
    """
    table = csv_reader(lines, source)
    while True:
        where = f"line {first + table.line_num} of {source.name}"
        cells = next_cells(table, where)
        if cells is None:
            return
        if not any(cells):
            yield Row({}, where, where, blank=True)
        elif names is None:
            names = header_of(cells, where, encoding)
            check_names(names, needs, source.name)
        else:
            yield _table_row(names, cells, where, encoding)


def csv_reader(lines: Iterable[str], source: Source) -> Any:
    """Return csv's reader of a table: strict, with cells of any size."""
    csv.field_size_limit(_LARGEST_CELL)
    return csv.reader(lines, delimiter=DELIMITERS[source.kind.format], strict=True)


def next_cells(table: Any, where: str) -> list[str] | None:
    """Return the next row's cells, None at the end; raises InputError where there is none."""
    try:
        cells: list[str] | None = next(table, None)
    except csv.Error as error:  # strict: a quote in the wrong place would swallow what follows
        raise InputError(f"{where}: no row of a table ({error}). Quote it as csv does.") from None
    return cells


def header_of(cells: list[str], where: str, encoding: str) -> list[str]:
    """Return the names of columns; raises InputError if they are none."""
    for cell in cells:
        check_decoded(cell, where, encoding)
    if len(set(cells)) < len(cells):
        raise InputError(f"{where}: the header names a column twice: {named(cells)}.")
    return cells


def _table_row(names: Sequence[str], cells: list[str], where: str, encoding: str) -> Row:
    try:
        for cell in cells:
            check_decoded(cell, where, encoding)
    except InputError as error:
        return Row({}, where, where, str(error))
    if len(cells) != len(names):
        return Row({}, where, where, f"{where}: {len(cells)} columns, expected {len(names)} ({named(names)}).")
    return Row(dict(zip(names, cells, strict=True)), where, where)
