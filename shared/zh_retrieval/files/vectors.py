"""Vectors with their records as JSONL, npy or Parquet: one window at a time, then joined."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.files.records import Record
from zh_retrieval.files.staging import concatenate
from zh_retrieval.files.utf8 import json_text, writable


@dataclass(frozen=True, slots=True)
class Format:
    """How a window is written and how windows are joined."""

    write: Callable[[Path, list[Record], np.ndarray], None]
    join: Callable[[list[Path], Path, int], None]


def format_of(output: str) -> Format:
    """Return the format that a file name's ending means.

    Raises:
        ConfigError: The ending is unknown.
        MissingExtraError: Parquet without pyarrow.
    """
    suffix = Path(output).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return Format(_write_jsonl, lambda parts, target, _: concatenate(parts, target))
    if suffix == ".npy":
        return Format(_write_rows, _join_npy)
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingExtraError('pyarrow is not installed. Run: pip install "zh-retrieval[parquet]"') from error
        return Format(_write_parquet, _join_parquet)
    raise ConfigError(f"--output {output!r} ends in {suffix!r}, expected .jsonl, .npy or .parquet, or - for stdout.")


def json_line(record: Record, vector: np.ndarray) -> str:
    """Return the record with its vector as one line; nine digits give the float32 back exactly."""
    numbers = ",".join([f"{value:.9g}" for value in vector.tolist()])
    fields = {name: value for name, value in record.fields.items() if name != "embedding"}
    head = json_text({**fields, "embedding": 0})
    return f"{head.removesuffix('0}')}[{numbers}]}}"


def _write_jsonl(path: Path, records: list[Record], vectors: np.ndarray) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json_line(record, vector) + "\n" for record, vector in zip(records, vectors, strict=True))


def _write_rows(path: Path, _: list[Record], vectors: np.ndarray) -> None:
    path.write_bytes(vectors.tobytes())


def _join_npy(parts: list[Path], target: Path, dimension: int) -> None:
    rows = sum(part.stat().st_size for part in parts) // (4 * dimension)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    with target.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)


def _table(records: list[Record], vectors: np.ndarray) -> Any:
    import pyarrow as pa

    width = vectors.shape[1]
    flat = pa.array(vectors.reshape(-1), type=pa.float32())
    columns = {
        "id": pa.array([writable(record.id) for record in records], type=pa.string()),
        "text": pa.array([record.text for record in records], type=pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
    }
    return pa.table(columns)


def _write_parquet(path: Path, records: list[Record], vectors: np.ndarray) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_table(records, vectors), path)


def _join_parquet(parts: list[Path], target: Path, dimension: int) -> None:
    import pyarrow.parquet as pq

    schema = _table([], np.empty((0, dimension), np.float32)).schema
    with pq.ParquetWriter(target, schema) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, schema=schema))
