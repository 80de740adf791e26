"""Inputs to pieces: the same rows give pieces and parts of the same names, in every run and on every machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from zh_retrieval.files.reading.ranges import Range, plan
from zh_retrieval.files.reading.records import Form
from zh_retrieval.files.reading.sources import Source, find, is_uri


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of rows with what tells its content: one part of the output.

    Attributes:
        range: Which rows.
        content: Equal for equal rows; of files that are no lines, as long as the file is not written to.
    """

    range: Range
    content: str

    def name(self, identity: str) -> str:
        """Return the name of its part: whose vectors, which file, which row, which content."""
        place = f"{_key(self.range.source.name)}-{self.range.first:012d}"
        return f"part-{identity}-{place}-{self.content}.parquet"

    def __str__(self) -> str:
        """Return what a message calls it."""
        return str(self.range)


def find_inputs(inputs: Sequence[str], output: str, say: Callable[[str], object]) -> list[Source]:
    """Return the files that paths, folders, patterns and URIs mean, each once, by names that hold on every machine.

    What lies in the output folder is none of them. Raises as `files.sources.find`.
    """
    return find([absolute(given) for given in inputs], without=[output], say=say)


def absolute(path: str) -> str:
    """Return a path as it is called from any folder; URIs are that already."""
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def of_files(parts: Iterable[str], sources: Iterable[Source]) -> set[str]:
    """Return those parts that are of one of the files, as it is or was."""
    keys = {_key(source.name) for source in sources}
    return {part for part in parts if part.count("-") >= 2 and part.split("-")[2] in keys}


def _key(*known: object) -> str:
    return hashlib.sha256(repr(known).encode("utf-8", "backslashreplace")).hexdigest()[:12]


def pieces(source: Source, rows: int, form: Form) -> list[Piece]:
    """Return the pieces of a file, of at most `rows` rows each; [] for an empty one.

    A part of lines is known by their bytes, so a file that has grown, or only got another time, keeps its parts.

    Raises:
        InputError: It is no file of its kind, lacks a column, or has changed.
        OSError: It cannot be read.
    """
    ranges = plan(source, rows, encoding=form.encoding, needs=form.needs)
    if not ranges or ranges[0].length is None:
        return [Piece(part, _key(source.size, source.modified, part.rows)) for part in ranges]
    with source.open() as stream:
        return [Piece(part, _digest(stream, part)) for part in ranges]


def _digest(stream: BinaryIO, part: Range) -> str:
    stream.seek(part.offset)
    known = hashlib.blake2b(repr(part.header).encode("utf-8", "surrogatepass"), digest_size=6)
    known.update(stream.read(part.length or 0))
    return known.hexdigest()
