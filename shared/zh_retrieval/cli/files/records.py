"""Texts from files: JSONL records, plain lines, Markdown passages."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from zh_retrieval.errors import InputError
from zh_retrieval.validation import check_text

_LONGEST = 400  # characters after which a passage ends at the next sentence


@dataclass(frozen=True, slots=True)
class Record:
    """One input: its fields as read, its text as embedded, and where it stood."""

    fields: dict[str, Any]
    text: str
    where: str


@dataclass
class Reader:
    """Reads records of one kind and deals with lines that are none.

    Attributes:
        parse: JSON object to the text of a record; raises InputError.
        skip: True passes over bad lines and counts them; False stops at the first.
        skipped: Bad lines so far.
    """

    parse: Callable[[dict[str, Any]], str]
    skip: bool = False
    skipped: int = 0

    def read(self, paths: list[str]) -> Iterator[Record]:
        """Yield the records of all inputs in order; "-" is standard input, JSONL or plain lines.

        Raises:
            InputError: A line is not a record (unless skipping); the message names file and line.
        """
        for path in paths:
            if path == "-":
                yield from self._lines(_standard_input(), "stdin", None)
                continue
            file = Path(path)
            if not file.is_file():
                raise InputError(f"{path} is not a file. Give .jsonl, .txt or .md files, or - for standard input.")
            if file.suffix.lower() == ".md":
                content = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
                for number, (title, text) in enumerate(passages(content), 1):
                    yield from self.attempt(partial(_passage, file.name, number, title, text, path))
            else:
                with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
                    yield from self._lines(stream, path, file.suffix.lower() in (".jsonl", ".json", ".ndjson"))

    def attempt(self, make: Callable[[], Record]) -> Iterator[Record]:
        """Yield what `make` returns; if it raises InputError and bad lines are skipped, count it and say so."""
        try:
            record = make()
        except InputError as error:
            if not self.skip:
                raise
            self.skipped += 1
            print(f"zh-retrieval: skipped {error}", file=sys.stderr)
        else:
            yield record

    def _lines(self, stream: Any, name: str, as_json: bool | None) -> Iterator[Record]:
        for number, line in enumerate(stream, 1):
            if line.strip():
                as_json = line.lstrip().startswith("{") if as_json is None else as_json
                where = f"line {number} of {name}"
                make = partial(self._record, line.rstrip("\n"), where, bool(as_json), f"{name}:{number}")
                yield from self.attempt(make)

    def _record(self, line: str, where: str, as_json: bool, name: str) -> Record:
        check_utf8(line, where)
        if not as_json:
            return Record({"id": name, "text": line}, line, where)
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error}). Mend it, or use --on-error skip.") from None
        if not isinstance(fields, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(fields).__name__}.")
        try:
            return Record(fields, self.parse(fields), where)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _standard_input() -> TextIO:
    return io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", errors="surrogateescape")


def _passage(file: str, number: int, title: str, text: str, path: str) -> Record:
    joined = f"{title}\n{text}" if title else text
    check_utf8(joined, f"passage {number} of {path}")
    return Record({"id": f"{file}:{number}", "title": title, "text": text}, joined, f"passage {number} of {path}")


def check_utf8(text: str, where: str) -> None:
    """Raise InputError if `text`, read with errors="surrogateescape", was not valid UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        raise InputError(
            f"{where}: byte 0x{byte:02x} at character {error.start} is not UTF-8. Convert the file, or use "
            "--on-error skip."
        ) from None


def writable(text: str) -> str:
    """Return text that can be written as UTF-8: a lone surrogate becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: object) -> str:
    """Return JSON that can be written as UTF-8; a lone surrogate in it stays the escape that it was."""
    return writable(json.dumps(value, ensure_ascii=False))


def text_parser(text_field: str, title_field: str | None) -> Callable[[dict[str, Any]], str]:
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


def passages(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, passage): paragraphs under one heading joined up to about 400 characters."""
    heading, block = "", ""
    for paragraph in re.split(r"\n\s*\n|\n(?=#)", markdown):
        stripped = paragraph.strip()
        if stripped.startswith("#"):
            if block:
                yield heading, block
            title, _, stripped = stripped.partition("\n")
            heading, block = title.lstrip("#").strip(), ""
            stripped = stripped.strip()
        for piece in _pieces(stripped):
            if block and len(block) + len(piece) > _LONGEST:
                yield heading, block
                block = ""
            block = f"{block}\n{piece}" if block else piece
    if block:
        yield heading, block


def _pieces(paragraph: str) -> Iterator[str]:
    piece = ""
    for sentence in re.split(r"(?<=[。！？!?；\n])", paragraph):
        if piece and len(piece) + len(sentence) > _LONGEST:
            yield piece.strip()
            piece = ""
        piece += sentence
    if piece.strip():
        yield piece.strip()
