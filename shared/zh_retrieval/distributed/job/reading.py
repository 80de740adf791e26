"""The rows of a range, each a text or what is wrong with it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zh_retrieval.distributed.job.planning import Range
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import InputError
from zh_retrieval.files.markdown import passages
from zh_retrieval.files.records import Parse, Record, line_record, parsed, passage_record
from zh_retrieval.files.utf8 import writable


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input: `error` is None or says why it has no text."""

    id: str
    text: str | None
    where: str
    error: str | None = None


def read(part: Range, parse: Parse, fields: tuple[str, ...]) -> list[Row]:
    """Return the rows of a range as `zh-retrieval embed` reads them; blank lines of JSONL are none.

    Raises:
        InputError: The file has changed, or has no such columns.
        OSError: It cannot be read.
    """
    filesystem, path = part.file.check()
    with filesystem.open_input_file(path) as stream:
        if part.file.kind == "parquet":
            return list(_of_table(part, stream, parse, fields))
        if part.file.kind == "markdown":
            return list(_of_markdown(part, stream.read()))
        stream.seek(part.offset)
        return list(_of_lines(part, stream.read(part.length), parse))


def _row(make: Callable[[], Record], id: str) -> Row:
    try:
        record = make()
    except InputError as error:
        return Row(writable(id), None, id, str(error))
    return Row(writable(record.id), record.text, record.where)


def _of_lines(part: Range, content: bytes, parse: Parse) -> Iterator[Row]:
    as_json, name = part.file.kind == "json", part.file.name
    encoding = "utf-8-sig" if part.first == 1 else "utf-8"
    lines = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors="surrogateescape")
    for number, line in enumerate(lines, part.first):
        if as_json and not line.strip():
            continue

        def make(line: str = line, number: int = number) -> Record:
            return line_record(parse, line.rstrip("\n"), number, name, as_json)

        yield _row(make, f"line {number} of {name}" if as_json else f"{name}:{number}")


def _of_markdown(part: Range, content: bytes) -> Iterator[Row]:
    found = enumerate(passages(content.decode("utf-8-sig", "surrogateescape")), 1)
    for number, (title, text) in islice(found, part.first - 1, part.first - 1 + part.rows):

        def make(number: int = number, title: str = title, text: str = text) -> Record:
            return passage_record(number, title, text, part.file.name)

        yield _row(make, f"{part.file.name}:{number}")


def _of_table(part: Range, stream: Any, parse: Parse, fields: tuple[str, ...]) -> Iterator[Row]:
    parquet = require("pyarrow.parquet")
    table = parquet.ParquetFile(stream)
    names = [name for name in table.schema_arrow.names if name in (*fields, "id", "_id")]
    skip, number = part.skip, part.first
    for batch in table.iter_batches(row_groups=[part.group], columns=names, batch_size=max(1, part.rows)):
        taken = batch.slice(skip, part.first + part.rows - number)
        skip = max(0, skip - batch.num_rows)
        for row in taken.to_pylist():
            where = f"row {number} of {part.file.name}"
            id = next((str(row[key]) for key in ("id", "_id") if row.get(key) is not None), where)

            def make(row: dict[str, Any] = row, where: str = where) -> Record:
                return parsed(parse, row, where)

            yield _row(make, id)
            number += 1
        if number == part.first + part.rows:
            return
