"""Rows of Parquet and Arrow files: values of any type, of which one that cannot be read is one bad row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from zh_retrieval.errors import InputError, MissingExtraError
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.sources import Source

_BATCH = 1024  # rows that are in memory as Python values
_NAMED = 8  # names of a message
_LONGEST = 40  # characters of one

Value = tuple[dict[str, Any], Any, "str | None"]
"""Fields, their Arrow schema, and what is wrong with the row."""


def pyarrow() -> Any:
    """Return pyarrow.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError('pyarrow is not installed. Run: pip install "zh-retrieval[parquet]"') from error
    return pyarrow


def named(names: Iterable[object]) -> str:
    """Return names for a message, which stays short whatever they are."""
    known = [str(name) for name in names]
    shown = [repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in known[:_NAMED]]
    more = [f"{len(known) - _NAMED} more"] if len(known) > _NAMED else []
    return ", ".join([*shown, *more]) or "none"


def check_names(names: Sequence[str], needs: Sequence[str], name: str) -> None:
    """Raise InputError unless the columns of the file `name` are among its `names`."""
    for need in needs:
        if need not in names:
            raise InputError(f"{name} has no column {need!r}, only {named(names)}. Say which with --text-field NAME "
                             "and --id-field NAME.")  # fmt: skip


def column_rows(stream: BinaryIO, source: Source, needs: Sequence[str] = ()) -> Iterator[Value]:
    """Yield the rows of a Parquet or Arrow file; about a thousand are in memory at a time.

    Raises:
        InputError: It is none, or lacks a column of `needs`.
        MissingExtraError: pyarrow is not installed.
    """
    pa = pyarrow()
    try:
        if source.kind.format == "parquet":
            table = pa.parquet.ParquetFile(stream)
            schema, batches = table.schema_arrow, table.iter_batches(batch_size=_BATCH)
        else:
            schema, batches = _arrow(pa, stream)
        check_names(schema.names, needs, source.name)
        for batch in batches:
            yield from values(batch)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{source.name} is no {source.kind.format} file, or a broken one: {str(error)[:200]}."
        ) from None


def _arrow(pa: Any, stream: BinaryIO) -> tuple[Any, Iterator[Any]]:
    if stream.read(6) == b"ARROW1":  # the file format, which has its index behind
        table = pa.ipc.open_file(stream)
        return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))
    stream.seek(0)
    table = pa.ipc.open_stream(stream)
    return table.schema, iter(table)


def values(batch: Any) -> Iterator[Value]:
    """Yield the rows of an Arrow batch as Python values; where one cannot be a Python value, its row is bad."""
    for low in range(0, batch.num_rows, _BATCH):
        part = batch.slice(low, _BATCH)
        try:
            found: list[Any] = part.to_pylist()
        except (ValueError, OverflowError):  # text that is not UTF-8, a date beyond Python's: find the rows
            found = [_alone(part.slice(row, 1)) for row in range(part.num_rows)]
        for fields in found:
            yield (fields, batch.schema, None) if isinstance(fields, dict) else ({}, batch.schema, fields)


def _alone(row: Any) -> dict[str, Any] | str:
    fields = {}
    for name in row.schema.names:
        try:
            fields[name] = row.column(name)[0].as_py()
        except (ValueError, OverflowError) as error:
            return f"column {name[:_LONGEST]!r} cannot be read: {str(error)[:100]}."
    return fields


def column_row(fields: dict[str, Any], types: Any, error: str | None, number: int, name: str) -> Row:
    """Return row `number` of a Parquet or Arrow file."""
    where = f"row {number} of {name}"
    return Row(fields, where, where, f"{where}: {error}" if error else None, types)


class RowGroups:
    """Reads ranges of rows of one Parquet file.

    A range behind the last one goes on from there: the beginning of its row group is not read again.
    """

    def __init__(self, stream: BinaryIO, source: Source, needs: Sequence[str] = ()) -> None:
        """Open a file.

        Raises:
            InputError: It is none, or lacks a column of `needs`.
        """
        pa = pyarrow()
        try:
            self._table = pa.parquet.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise InputError(f"{source.name} is no Parquet file: {str(error)[:200]}.") from None
        check_names(self._table.schema_arrow.names, needs, source.name)
        self._group = -1
        self._place = 0  # rows of the group that were passed
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None  # of a batch

    @property
    def counts(self) -> list[int]:
        """Return how many rows each row group has."""
        metadata = self._table.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def read(self, group: int, skip: int, rows: int) -> Iterator[Value]:
        """Yield `rows` rows of a row group behind its first `skip` ones."""
        if group != self._group or skip < self._place:
            self._group, self._place, self._rest = group, 0, None
            self._batches = self._table.iter_batches(row_groups=[group], batch_size=_BATCH)
        self._take(skip - self._place)
        for batch in self._take(rows):
            yield from values(batch)

    def _take(self, rows: int) -> list[Any]:
        taken = []
        while rows > 0:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                break
            part = batch.slice(0, rows)
            self._rest = batch.slice(part.num_rows) if part.num_rows < batch.num_rows else None
            rows -= part.num_rows
            self._place += part.num_rows
            taken.append(part)
        return taken
