"""Vectors with their records as JSONL, npy or Parquet: one window at a time, then joined."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.formats.columns import pyarrow
from zh_retrieval.files.reading.records import Form, Record
from zh_retrieval.files.utf8 import json_text
from zh_retrieval.files.writing.encoded import Encoded
from zh_retrieval.files.writing.tables import columns_of, common_schema, fitted, other_columns

Place = list[int]
"""Where a window is in a finished output, in numbers that its format understands."""

_HEAD = struct.Struct("<QQ")  # of a window of npy: rows, bytes of vectors; then come vectors, then ids


class Format(Protocol):
    """How a window is written, and how windows become the output."""

    @property
    def beside(self) -> tuple[str, ...]:
        """Return what is added to the output's name for each file that belongs to it."""
        ...

    def write(self, path: Path, records: Sequence[Record], vectors: Encoded) -> None:
        """Write one window."""

    def join(self, parts: Sequence[Path], targets: Sequence[Path], none: Encoded) -> None:
        """Write the output, and what is beside it, of the windows in order; `none` says what vectors are in them."""

    def places(self, parts: Sequence[Path]) -> list[Place]:
        """Return where each window is in the output that `join` makes of them."""
        ...

    def extract(self, outputs: Sequence[Path], place: Place, path: Path) -> None:
        """Write a window as it was written before it was joined."""


def format_of(output: str, form: Form, *, others: bool = True) -> Format:
    """Return the format that a file name's ending means.

    Args:
        output: The name.
        form: How records were read.
        others: False leaves out what is neither id nor text.

    Raises:
        ConfigError: The ending is unknown.
        MissingExtraError: Parquet without pyarrow.
    """
    suffix = Path(output).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return Lines(others)
    if suffix == ".npy":
        return Npy(form, others)
    if suffix == ".parquet":
        pyarrow()
        return Parquet(form, others)
    raise ConfigError(
        f"--output {output[:200]!r} ends in {suffix!r}, expected .jsonl, .npy or .parquet, or - for stdout."
    )


def json_lines(records: Sequence[Record], vectors: Encoded, *, others: bool = True) -> Iterator[str]:
    """Yield each record with its vectors as one line, without its end."""
    for record, said in zip(records, vectors.json(), strict=True):
        fields = record.fields if others else {"id": record.id, "text": record.text}
        head = json_text({name: value for name, value in fields.items() if name not in vectors.names})
        yield f"{head[:-1]}{', ' if head != '{}' else ''}{said}}}"


@dataclass(frozen=True, slots=True)
class Lines:
    """JSON lines: the fields as they came, and the vector."""

    others: bool
    beside: tuple[str, ...] = ()

    def write(self, path: Path, records: Sequence[Record], vectors: Encoded) -> None:
        """Write one window."""
        with path.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(f"{line}\n" for line in json_lines(records, vectors, others=self.others))

    def join(self, parts: Sequence[Path], targets: Sequence[Path], none: Encoded) -> None:
        """Write all lines."""
        concatenate(parts, targets[0])

    def places(self, parts: Sequence[Path]) -> list[Place]:
        """Return [byte, bytes] of each window."""
        return _following(part.stat().st_size for part in parts)

    def extract(self, outputs: Sequence[Path], place: Place, path: Path) -> None:
        """Write the lines of a window."""
        path.write_bytes(_bytes(outputs[0], *place))


@dataclass(frozen=True, slots=True)
class Npy:
    """An array of vectors, and beside it, as JSON lines, what row i is: its id and the columns that are no text."""

    form: Form
    others: bool
    beside: tuple[str, ...] = (".ids",)

    def write(self, path: Path, records: Sequence[Record], vectors: Encoded) -> None:
        """Write one window."""
        content = _dense(vectors).astype("<f4").tobytes()
        with path.open("wb") as out:
            out.write(_HEAD.pack(len(records), len(content)))
            out.write(content)
            for record in records:
                out.write(f"{json_text(self._about(record))}\n".encode())

    def _about(self, record: Record) -> dict[str, Any]:
        names = other_columns(self.form, record.fields) if self.others else {}
        kept = {new: record.fields[name] for name, new in names.items() if name != self.form.text_field}
        return {"id": record.id, **kept}

    def join(self, parts: Sequence[Path], targets: Sequence[Path], none: Encoded) -> None:
        """Write the array and its ids."""
        rows = 0
        for part in parts:
            with part.open("rb") as stream:
                rows += _HEAD.unpack(stream.read(_HEAD.size))[0]
        with targets[0].open("wb") as out, targets[1].open("wb") as ids:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, _dense(none).shape[1])}
            np.lib.format.write_array_header_1_0(out, header)
            for part in parts:
                with part.open("rb") as stream:
                    _, size = _HEAD.unpack(stream.read(_HEAD.size))
                    out.write(stream.read(size))
                    shutil.copyfileobj(stream, ids)

    def places(self, parts: Sequence[Path]) -> list[Place]:
        """Return [rows, byte and bytes of vectors behind the header, byte and bytes of ids] of each window."""
        heads = []
        for part in parts:
            with part.open("rb") as stream:
                heads.append(_HEAD.unpack(stream.read(_HEAD.size)))
        vectors = _following(size for _, size in heads)
        sizes = [part.stat().st_size - _HEAD.size - size for part, (_, size) in zip(parts, heads, strict=True)]
        ids = _following(sizes)
        return [[rows, *one, *other] for (rows, _), one, other in zip(heads, vectors, ids, strict=True)]

    def extract(self, outputs: Sequence[Path], place: Place, path: Path) -> None:
        """Write a window's vectors and ids."""
        rows, begin, size, first, length = place
        with outputs[0].open("rb") as stream:
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            begin += stream.tell()
        path.write_bytes(_HEAD.pack(rows, size) + _bytes(outputs[0], begin, size) + _bytes(outputs[1], first, length))


@dataclass(frozen=True, slots=True)
class Parquet:
    """Columns id, text, all others of the input, and those of the vectors: see `Encoded.columns`."""

    form: Form
    others: bool
    beside: tuple[str, ...] = ()

    def write(self, path: Path, records: Sequence[Record], vectors: Encoded) -> None:
        """Write one window."""
        pa = pyarrow()
        columns = columns_of(records, self.form, others=self.others, made=vectors.names)
        pa.parquet.write_table(pa.table({**columns, **vectors.columns()}), path)

    def join(self, parts: Sequence[Path], targets: Sequence[Path], none: Encoded) -> None:
        """Write a row group for each window."""
        parquet = pyarrow().parquet
        empty = targets[0].with_name("none")
        self.write(empty, [], none)
        schema = common_schema([parquet.read_schema(part) for part in [*parts, empty]])
        empty.unlink()
        with parquet.ParquetWriter(targets[0], schema) as writer:
            for part in parts:
                table = fitted(parquet.read_table(part), schema)
                writer.write_table(table, row_group_size=max(1, len(table)))

    def places(self, parts: Sequence[Path]) -> list[Place]:
        """Return [row group, rows] of each window."""
        read = pyarrow().parquet.read_metadata
        rows = [read(part).num_rows for part in parts]
        return [[number, count] for number, count in enumerate(rows)]

    def extract(self, outputs: Sequence[Path], place: Place, path: Path) -> None:
        """Write the rows of a window."""
        parquet = pyarrow().parquet
        with parquet.ParquetFile(outputs[0]) as table:
            parquet.write_table(table.read_row_group(place[0]), path)


def _dense(vectors: Encoded) -> np.ndarray:
    if vectors.dense is None or vectors.sparse is not None:
        raise ConfigError(
            "An .npy file holds dense vectors alone. Give --output a name that ends in .parquet or .jsonl."
        )
    return vectors.dense


def _following(sizes: Iterable[int]) -> list[Place]:
    """Return [begin, size] of things that stand one behind the other."""
    begin, found = 0, []
    for size in sizes:
        found.append([begin, size])
        begin += size
    return found


def _bytes(path: Path, begin: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(size)


def concatenate(parts: Sequence[Path], target: Path) -> None:
    """Join text or binary parts end to end."""
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
