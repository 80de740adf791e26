"""Rows of a dataset's files, by the one reader; what is no row is noted, a file that is another thing is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import UTF8
from zh_retrieval.files.reading.formats.delimited import DELIMITERS
from zh_retrieval.files.reading.kinds import Kind, kind_of
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.rows import rows_of
from zh_retrieval.files.reading.sources import Source

LocatedRow = tuple[dict[str, Any], str]
"""Fields, and where they stood: line and file."""
Note = Callable[[str, str], None]
"""Takes the kind of a fault and where it is."""

QRELS = ("query-id", "corpus-id", "score")
_TREC = (".qrels", ".qrel", ".trec")
_HEADERLESS = {2: ("id", "text"), 3: ("id", "title", "text"), 4: ("id", "url", "title", "text")}
"""Columns of tab-separated files without a header, as MS MARCO has them."""
_ADVICE = ", or use --on-error skip"


def format_of(path: Path) -> str | None:
    """Return what a file holds, "json" for lines of it, "text" for TREC's judgements; None for no part of a dataset."""
    kind = kind_of(path.name)
    if kind is None:
        return "text" if path.suffix.lower() in _TREC else None
    whole = path.suffix.lower() == ".json"  # one object, not one a line
    return None if whole or kind.format == "markdown" else kind.format


def source_of(path: Path, format: str | None = None) -> Source:
    """Return the file for the one reader, read as `format` where its name says another."""
    kind = kind_of(path.name) or Kind("text")
    status = path.stat()
    kind = Kind(format, kind.packed) if format else kind  # type: ignore[arg-type]
    return Source(str(path), kind, status.st_size, str(status.st_mtime_ns))


def records(path: Path, note: Note, encoding: str = UTF8) -> Iterator[LocatedRow]:
    """Yield the rows of a file of passages, questions or pairs; what is none is noted and passed over.

    Raises:
        InputError: Most of its lines are none: the first error says why, and what encoding it may be in.
    """
    source = source_of(path)
    if source.kind.format == "tsv" and not _has_header(path, encoding):
        yield from _good(_headerless(path, encoding), path, note)
    else:
        yield from _good(rows_of(source, encoding=encoding), path, note)


def judgements(path: Path, note: Note, encoding: str = UTF8) -> Iterator[LocatedRow]:
    """Yield query, passage and grade: BEIR's three columns with or without a header, TREC's four, or named fields.

    Where columns are separated, one line is one judgement: a quote never reaches beyond its line, as it does in csv.
    """
    format = format_of(path)
    if format not in ("text", *DELIMITERS):
        yield from records(path, note, encoding)
        return
    delimiter = DELIMITERS.get(str(format), "\t")
    for first, (fields, where) in enumerate(_good(rows_of(source_of(path, "text"), encoding=encoding), path, note)):
        cells = _cells(fields["text"], delimiter)
        if len(cells) not in (3, 4):
            note("unreadable-line", where)
        elif first > 0 or _is_number(cells[-1]):  # else a header
            yield dict(zip(QRELS, (cells[0], cells[-2], cells[-1]), strict=True)), where


def _good(rows: Iterator[Row], path: Path, note: Note) -> Iterator[LocatedRow]:
    """Yield the rows that are some; raise InputError at the end if most are none."""
    bad: list[str] = []
    good = 0
    for row in rows:
        where = row.where.replace(str(path), path.name)
        if row.error is not None:
            note("unreadable-line", where)
            bad.append(row.error.replace(_ADVICE, ""))
        elif not row.blank and _is_text(row.fields):
            good += 1
            yield row.fields, where
        elif not row.blank:
            note("unreadable-line", where)
            bad.append(f"{row.where}: half of a surrogate pair is no text.")
    if len(bad) > good:
        raise InputError(f"{len(bad)} of {len(bad) + good} lines of {path} cannot be read. The first: {bad[0]}")


def _is_text(value: Any) -> bool:
    """Return True if every str in it can be written: JSON can escape half of a surrogate pair, which is no text."""
    if isinstance(value, dict):
        return all(_is_text(entry) for entry in value.values())
    if isinstance(value, list):
        return all(_is_text(entry) for entry in value)
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _has_header(path: Path, encoding: str) -> bool:
    """Return True if a cell of the first line is the name of a column."""
    first = next((row for row in rows_of(source_of(path, "text"), encoding=encoding) if not row.blank), None)
    cells = _cells(first.fields["text"], "\t") if first is not None and first.error is None else []
    return any(cell.strip().casefold() in _KNOWN for cell in cells)


def _headerless(path: Path, encoding: str) -> Iterator[Row]:
    for row in rows_of(source_of(path, "text"), encoding=encoding):
        cells = row.fields["text"].split("\t") if row.error is None and not row.blank else []
        names = _HEADERLESS.get(len(cells))
        if row.error is not None or row.blank:
            yield row
        elif names is None:
            yield Row({}, row.where, row.id, f"{row.where}: {len(cells)} columns. Expected a header, or id and text.")
        else:
            yield Row(dict(zip(names, cells, strict=True)), row.where, row.id)


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter not in line:
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except csv.Error:  # a quote that is part of an id
        return [cell.strip() for cell in line.split(delimiter)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


ID = ("_id", "id", "query-id", "query_id", "qid", "corpus-id", "corpus_id", "pid", "docid", "doc_id", "编号")
TEXT = ("text", "query", "question", "passage", "document", "content", "body", "正文", "内容", "文本", "问题", "段落")
TITLE = ("title", "标题")
QUESTION = ("question", "query", "anchor", "questions", "问题", "提问", "标准问题", "标准问", "用户问题", "问")
RIGHT = (
    "passage", "passages", "positive", "positives", "pos", "answer", "answers", "document", "documents", "context",
    "text", "答案", "回答", "标准答案", "答复", "段落", "正文", "内容", "答",
)  # fmt: skip
WRONG = ("negative", "negatives", "neg")
_KNOWN = {*ID, *TEXT, *TITLE, *QUESTION, *RIGHT}


def field(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first value of the names that is there; case and white space around a column's name do not count."""
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    folded = {str(name).strip().casefold(): value for name, value in fields.items()}
    return next((folded[name] for name in names if folded.get(name) is not None), None)
