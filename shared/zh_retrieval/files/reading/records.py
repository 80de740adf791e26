"""Records for commands and jobs: each row's text and id, from files, folders, patterns, URIs or standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import UTF8
from zh_retrieval.files.reading.formats.columns import named
from zh_retrieval.files.reading.formats.lines import line_row
from zh_retrieval.files.reading.row import Row
from zh_retrieval.files.reading.rows import check_columns, rows_of
from zh_retrieval.files.reading.sources import Source, find
from zh_retrieval.files.reading.standard_input import live_lines
from zh_retrieval.validation import check_text

_LOGGER = logging.getLogger(__name__)
_IDS = ("id", "_id")  # `_id` as BEIR has it
_SAID = 20  # bad rows that are shown one by one

Parse = Callable[[dict[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Record:
    """One input: its fields as read, its text as embedded, and where it stood.

    Attributes:
        fields: Name -> value, all of them; {} of a bad row.
        text: As it is embedded; "" of a bad row.
        where: File and line, for messages.
        id: The id field's value as text; else the field `id` or `_id`; else where it stood.
        error: Why it has no text, with `where`; None for a good one.
        types: The Arrow schema of its values, of files that have one.
        identified: A field says its id, or it is of a kind of file in which places are ids.
    """

    fields: dict[str, Any]
    text: str
    where: str
    id: str
    error: str | None = None
    types: Any = field(default=None, compare=False, repr=False)
    identified: bool = True


@dataclass(frozen=True)
class Form:
    """What the fields of a record mean, and how files are decoded.

    Attributes:
        parse: Fields to text; raises InputError.
        text_field: The field of the text, which a table must have; None where `parse` wants several.
        id_field: The field of the id, which every row must have; None: `id` or `_id`, if it is there.
        encoding: Of files that are text, as `check_encoding` gives it.
    """

    parse: Parse
    text_field: str | None = None
    id_field: str | None = None
    encoding: str = UTF8

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the columns that a table must have."""
        return tuple(name for name in (self.text_field, self.id_field) if name is not None)

    def record(self, row: Row) -> Record:
        """Return the record of a row; that of a bad row has an error, whatever is wrong with it."""
        id, identified = row.id, row.id != row.where
        if row.error is not None:
            return Record({}, "", row.where, id, row.error, row.types)
        try:
            names = (self.id_field,) if self.id_field is not None else _IDS
            said = next((row.fields[name] for name in names if row.fields.get(name) is not None), None)
            if said is not None:
                id, identified = (said if isinstance(said, str) else _as_text(said)), True
            text = self.parse(row.fields)
            if self.id_field is not None and said is None:
                if self.id_field in row.fields:
                    raise InputError(f"field {self.id_field!r} is null, expected an id. Mend it.")
                raise InputError(f"no id in field {self.id_field!r}, expected one of {named(row.fields)}.")
        except InputError as error:
            return Record(row.fields, "", row.where, id, f"{row.where}: {error}", row.types, identified)
        return Record(row.fields, text, row.where, id, None, row.types, identified)


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def text_form(
    text_field: str = "text", title_field: str | None = None, *, id_field: str | None = None, encoding: str = UTF8
) -> Form:
    """Return the form of records that are embedded: the text, after its title and a newline if it has one."""

    def parse(fields: dict[str, Any]) -> str:
        if text_field not in fields:
            raise InputError(f"no field {text_field!r}, expected one of {named(fields)}.")
        text, title = fields[text_field], fields.get(title_field) if title_field else None
        check_text(text, f"field {text_field!r}")
        if title is None or title == "":
            return str(text)
        check_text(title, f"field {title_field!r}")
        return f"{title}\n{text}"

    return Form(parse, text_field, id_field, encoding)


@dataclass
class Reader:
    """Reads records and deals with rows that are none.

    Attributes:
        form: What a record is.
        skip: True passes over bad rows and counts them; False stops at the first.
        say: Takes one line about what was skipped.
        without: Files and folders that are no input though they lie in one: a job's own output.
        good: Records so far.
        skipped: Bad rows so far.
        empty: Blank lines of text files so far: each is a record of its own, so that row i is line i.
        passed: Blank lines of JSON lines, tables and standard input so far, which are none.
    """

    form: Form
    skip: bool = False
    say: Callable[[str], object] = _LOGGER.warning
    without: Sequence[str] = ()
    good: int = 0
    skipped: int = 0
    empty: int = 0
    passed: int = 0
    _first_bad: str = field(default="", repr=False)
    _given_way: set[str] = field(default_factory=set, repr=False)

    def give_way(self, records: Sequence[Record], made: Sequence[str]) -> None:
        """Say once of each field that what is `made` takes its place in the output."""
        for name in made:
            if name not in self._given_way and any(name in record.fields for record in records):
                self._given_way.add(name)
                self.say(f"{name!r} of the input is left out of the output: what is computed has that name.")

    def read(self, paths: Sequence[str]) -> Iterator[Record]:
        """Yield the records of all inputs in order; "-" is standard input, JSON lines or plain lines.

        Every input is looked for, and every table's columns, before the first is read.

        Raises:
            InputError: An input is not there, or a row is not a record (unless skipping); the message names file and
                line. While skipping: there are rows, and all of them are bad.
        """
        return (record for record in self.live(paths) if record is not None)

    def live(self, paths: Sequence[str]) -> Iterator[Record | None]:
        """Yield what `read` yields, and None where standard input has no more for now."""
        sources: list[Source | None] = []
        for is_standard, given in groupby(paths, key=lambda path: path == "-"):
            sources += [None] if is_standard else find(list(given), without=self.without, say=self.say)
        for source in filter(None, sources):
            check_columns(source, encoding=self.form.encoding, needs=self.form.needs)
        return self._live(sources)

    def _live(self, sources: list[Source | None]) -> Iterator[Record | None]:
        for source in sources:
            if source is None:
                yield from self._standard_input()
            else:
                yield from self.records(rows_of(source, encoding=self.form.encoding, needs=self.form.needs))
        self.check()

    def _standard_input(self) -> Iterator[Record | None]:
        if sys.stdin is None:
            raise InputError("There is no standard input. Give the name of a file instead of -.")
        as_json: bool | None = None
        number = 0
        for line in live_lines(sys.stdin.buffer, self.form.encoding):
            if line is None:
                yield None
                continue
            number += 1
            if not line.strip():
                self.passed += 1
                continue
            as_json = line.lstrip().startswith("{") if as_json is None else as_json
            yield from self.records([line_row(line, number, "stdin", as_json, self.form.encoding)])

    def records(self, rows: Iterable[Row]) -> Iterator[Record]:
        """Yield the records of rows; raises InputError at a bad one, or skips it."""
        for row in rows:
            if row.blank:
                if not row.fields:
                    self.passed += 1
                    continue
                self.empty += 1
            record = self.form.record(row)
            if record.error is None:
                self.good += 1
                yield record
            else:
                self.bad(record.error, among_good=False)

    def bad(self, error: str, *, among_good: bool = True) -> None:
        """Count a bad row and say so; raises InputError unless bad rows are skipped.

        Args:
            error: What is wrong, with where.
            among_good: It was given out as a good one.
        """
        if not self.skip:
            raise InputError(error)
        self.good -= among_good
        self._first_bad = self._first_bad or error
        self.skipped += 1
        if self.skipped <= _SAID:
            self.say(f"skipped {error}")
        elif self.skipped == _SAID + 1:
            self.say("more bad rows are counted and not shown")

    def skipped_before(self, count: int) -> None:
        """Count bad rows that an earlier run has skipped."""
        self.skipped += count
        self.good -= count

    def check(self) -> None:
        """Raise InputError if there were rows, and all of them are bad: a wrong column, most likely."""
        if self.skipped and self.good <= 0:
            raise InputError(f"All {self.skipped} rows are bad. The first: {self._first_bad}")

    def report(self, *, rows_matter: bool) -> None:
        """Say what was skipped, and the blank lines where they shift rows or are rows."""
        if self.skipped:
            self.say(f"{self.skipped} lines were skipped")
        if self.empty:
            self.say(f"{self.empty} blank lines were read as empty texts: row i is line i")
        if self.passed and rows_matter:
            self.say(f"{self.passed} blank lines were passed over: they have no row")
