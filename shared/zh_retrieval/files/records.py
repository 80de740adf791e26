"""Texts from files: JSONL records, tables, plain lines, Markdown passages."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.markdown import passages
from zh_retrieval.files.standard_input import live_lines
from zh_retrieval.files.utf8 import check_utf8
from zh_retrieval.validation import check_text

_LOGGER = logging.getLogger(__name__)

Parse = Callable[[dict[str, Any]], str]

JSON = (".jsonl", ".json", ".ndjson")
MARKDOWN = (".md", ".markdown")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131 072


@dataclass(frozen=True, slots=True)
class Record:
    """One input: its fields as read, its text as embedded, and where it stood."""

    fields: dict[str, Any]
    text: str
    where: str

    @property
    def id(self) -> str:
        """Return the field `id`, or `_id` as BEIR has it, or else where the record stood."""
        found = (self.fields[name] for name in ("id", "_id") if self.fields.get(name) is not None)
        return str(next(found, self.where))


@dataclass
class Reader:
    """Reads records of one kind and deals with lines that are none.

    Attributes:
        parse: JSON object or row of a table to the text of a record; raises InputError.
        skip: True passes over bad lines and counts them; False stops at the first.
        say: Takes one line about what was skipped.
        skipped: Bad lines so far.
        empty: Blank lines of text files so far: each is a record of its own, so that row i is line i.
        passed: Blank lines of JSONL, tables and standard input so far, which are none.
    """

    parse: Parse
    skip: bool = False
    say: Callable[[str], object] = _LOGGER.warning
    skipped: int = 0
    empty: int = 0
    passed: int = 0

    def read(self, paths: list[str]) -> Iterator[Record]:
        """Yield the records of all inputs in order; "-" is standard input, JSONL or plain lines.

        Raises:
            InputError: A line is not a record (unless skipping); the message names file and line.
        """
        return (record for record in self.live(paths) if record is not None)

    def live(self, paths: list[str]) -> Iterator[Record | None]:
        """Yield what `read` yields, and None where standard input has no more for now."""
        for path in paths:
            if path == "-":
                yield from self._lines(live_lines(_standard_input()), "stdin", None)
                continue
            file = Path(path)
            suffix = file.suffix.lower()
            if not file.is_file():
                raise InputError(
                    f"{path} is not a file. Give .jsonl, .csv, .tsv, .txt or .md files, or - for standard input."
                )
            with file.open(encoding="utf-8-sig", errors="surrogateescape", newline=_newline(suffix)) as stream:
                if suffix in MARKDOWN:
                    for number, (title, text) in enumerate(passages(stream.read()), 1):
                        yield from self.attempt(partial(passage_record, number, title, text, path))
                elif suffix in _DELIMITERS:
                    yield from self._rows(stream, path, _DELIMITERS[suffix])
                else:
                    yield from self._lines(stream, path, suffix in JSON)

    def attempt(self, make: Callable[[], Record]) -> Iterator[Record]:
        """Yield what `make` returns; if it raises InputError and bad lines are skipped, count it and say so."""
        try:
            record = make()
        except InputError as error:
            if not self.skip:
                raise
            self.skipped += 1
            self.say(f"skipped {error}")
        else:
            yield record

    def report(self, *, rows_matter: bool) -> None:
        """Say what was skipped, and the blank lines where they shift rows or are rows."""
        if self.skipped:
            self.say(f"{self.skipped} lines were skipped")
        if self.empty:
            self.say(f"{self.empty} blank lines were read as empty texts: row i is line i")
        if self.passed and rows_matter:
            self.say(f"{self.passed} blank lines were passed over: they have no row")

    def _lines(self, stream: Iterable[str | None], name: str, as_json: bool | None) -> Iterator[Record | None]:
        live = as_json is None
        number = 0
        for line in stream:
            if line is None:
                yield None
                continue
            number += 1
            if not line.strip():
                if live or as_json:
                    self.passed += 1
                    continue
                self.empty += 1
            as_json = line.lstrip().startswith("{") if as_json is None else as_json
            yield from self.attempt(partial(line_record, self.parse, line.rstrip("\n"), number, name, as_json))

    def _rows(self, stream: Iterable[str], path: str, delimiter: str) -> Iterator[Record]:
        csv.field_size_limit(_LARGEST_CELL)
        table = csv.reader(stream, delimiter=delimiter, strict=True)
        names: list[str] | None = None
        while True:
            where = f"line {table.line_num + 1} of {path}"
            try:
                row = next(table, None)
            except csv.Error as error:  # strict: a quote in the wrong place would swallow what follows
                raise InputError(f"{where}: no row of a table ({error}). Quote it as csv does.") from None
            if row is None:
                return
            if not any(row):
                self.passed += 1
            elif names is None:
                names = _header(row, where)
            else:
                yield from self.attempt(partial(self._row, names, row, where))

    def _row(self, names: list[str], row: list[str], where: str) -> Record:
        for cell in row:
            check_utf8(cell, where)
        if len(row) != len(names):
            raise InputError(f"{where}: {len(row)} columns, expected {len(names)} ({', '.join(names)}).")
        return parsed(self.parse, dict(zip(names, row, strict=True)), where)


def line_record(parse: Parse, line: str, number: int, name: str, as_json: bool) -> Record:
    """Return the record of line `number` of the file `name`: a JSON object, or the line itself.

    Raises:
        InputError: It is none; the message names file and line.
    """
    where = f"line {number} of {name}"
    check_utf8(line, where)
    if not as_json:
        return Record({"id": f"{name}:{number}", "text": line}, line, where)
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}). Mend it, or use --on-error skip.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(fields).__name__}.")
    return parsed(parse, fields, where)


def parsed(parse: Parse, fields: dict[str, Any], where: str) -> Record:
    """Return the record of fields; `where` they stood is put before the message of an InputError."""
    try:
        return Record(fields, parse(fields), where)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def windows(records: Iterable[Record | None], size: int) -> Iterator[list[Record]]:
    """Yield the records in lists of `size`; None ends a list early, and the last one may be short."""
    window: list[Record] = []
    for record in records:
        if record is not None:
            window.append(record)
        if window and (record is None or len(window) == size):
            yield window
            window = []
    if window:
        yield window


def _newline(suffix: str) -> str | None:
    return "" if suffix in _DELIMITERS else None  # csv wants the endings as they are; others want newlines


def _standard_input() -> Any:
    if sys.stdin is None:
        raise InputError("There is no standard input. Give the name of a file instead of -.")
    return sys.stdin.buffer


def _header(row: list[str], where: str) -> list[str]:
    for cell in row:
        check_utf8(cell, where)
    if len(set(row)) < len(row):
        raise InputError(f"{where}: the header names a column twice: {', '.join(row)}.")
    return row


def passage_record(number: int, title: str, text: str, path: str) -> Record:
    """Return the record of passage `number` of a Markdown file; raises InputError as `line_record`."""
    joined = f"{title}\n{text}" if title else text
    check_utf8(joined, f"passage {number} of {path}")
    return Record({"id": f"{path}:{number}", "title": title, "text": text}, joined, f"passage {number} of {path}")


def text_parser(text_field: str, title_field: str | None) -> Parse:
    """Return the parser of embedding records: the text, after its title and a newline if it has one."""

    def parse(fields: dict[str, Any]) -> str:
        if text_field not in fields:
            raise InputError(f"no field {text_field!r}, expected one of {', '.join(map(repr, fields)) or 'none'}.")
        text, title = fields[text_field], fields.get(title_field) if title_field else None
        check_text(text, f"field {text_field!r}")
        if title is None or title == "":
            return str(text)
        check_text(title, f"field {title_field!r}")
        return f"{title}\n{text}"

    return parse
