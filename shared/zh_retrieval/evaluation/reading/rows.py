"""Rows of JSONL, tab-separated, Parquet and Arrow files, whatever wrote them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zh_retrieval.errors import InputError, MissingExtraError

Row = tuple[dict[str, Any], str]
"""Fields, and where they stood: file and line."""
Note = Callable[[str, str], None]
"""Takes the kind of a fault and where it is."""

JSONL = (".jsonl", ".ndjson")
COLUMNS = (".parquet", ".arrow")
LINES = (".tsv", ".txt", ".qrels", ".qrel", ".trec")
QRELS = ("query-id", "corpus-id", "score")


def suffix(path: Path) -> str:
    """Return the ending that says what a file is, lower case; that of `x.jsonl.gz` is ".jsonl"."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def rows(path: Path, note: Note) -> Iterator[Row]:
    """Yield the rows of a file; what is none is noted and passed over."""
    kind = suffix(path)
    if kind in COLUMNS:
        yield from _columns(path, kind)
    elif kind in LINES:
        yield from _judgements(path, note)
    else:
        for line, where in _lines(path, note):
            try:
                fields = json.loads(line)
                json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair is no text
            except (ValueError, RecursionError):
                note("unreadable-line", where)
                continue
            if isinstance(fields, dict):
                yield fields, where
            else:
                note("unreadable-line", where)


def _lines(path: Path, note: Note) -> Iterator[tuple[str, str]]:
    """Yield the lines that hold something, without their ends; a byte order mark is no part of a line."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            where = f"{path.name}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                note("unreadable-line", where)
                continue
            if line.strip():
                yield line, where


def _judgements(path: Path, note: Note) -> Iterator[Row]:
    """Yield query, passage and grade: BEIR's three columns with or without a header, or TREC's four.

    One line is one judgement: a quote never reaches beyond its line, as it does in csv.
    """
    for first, (line, where) in enumerate(_lines(path, note)):
        cells = _cells(line)
        if len(cells) not in (3, 4):
            note("unreadable-line", where)
            continue
        if first == 0 and not _is_number(cells[-1]):
            continue  # a header
        yield dict(zip(QRELS, (cells[0], cells[-2], cells[-1]), strict=True)), where


def _cells(line: str) -> list[str]:
    if "\t" not in line:
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter="\t", strict=True))]
    except csv.Error:  # a quote that is part of an id
        return [cell.strip() for cell in line.split("\t")]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _columns(path: Path, kind: str) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError('pyarrow is not installed. Run: pip install "zh-retrieval[parquet]"') from error
    number = 0
    try:
        if kind == ".parquet":
            batches = pq.ParquetFile(path).iter_batches()
        else:
            batches = iter(pa.ipc.open_stream(pa.OSFile(str(path))))
        for batch in batches:
            for fields in batch.to_pylist():
                number += 1
                yield fields, f"{path.name}:{number}"
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read ({error}). Download it again.") from None
