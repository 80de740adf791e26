"""Inputs to ranges of rows: the same files give the same ranges in every run and on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from zh_retrieval.distributed.job.filesystem import listed, locate
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import InputError
from zh_retrieval.files.markdown import passages
from zh_retrieval.files.records import JSON, MARKDOWN

Kind = Literal["json", "text", "markdown", "parquet"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(JSON, "json"), **dict.fromkeys(MARKDOWN, "markdown"), ".txt": "text", ".parquet": "parquet",
}  # fmt: skip
_CHUNK = 1 << 24  # bytes read at a time while lines are counted


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as it was when the job was planned; one that has changed since is another file."""

    name: str
    kind: Kind
    size: int
    modified: int  # nanoseconds

    def check(self) -> tuple[Any, str]:
        """Return its filesystem and path.

        Raises:
            InputError: It has changed.
            OSError: It is not there, or cannot be asked for.
        """
        filesystem, path = locate(self.name)
        info = filesystem.get_file_info(path)
        if info.type == require("pyarrow.fs").FileType.NotFound:
            raise FileNotFoundError(f"{self.name} is not there any more, or not on every machine of the cluster")
        if (info.size or 0, info.mtime_ns or 0) != (self.size, self.modified):
            raise InputError(f"{self.name} changed while the job ran. Start anew, with another --output or --restart.")
        return filesystem, path


@dataclass(frozen=True, slots=True)
class Range:
    """Rows `first` (from 1) to `first + rows - 1` of a file, blank lines counted.

    Attributes:
        offset: Byte at which lines begin.
        length: Bytes of lines.
        group: Row group of Parquet.
        skip: Rows of the row group before the first.
    """

    file: InputFile
    first: int
    rows: int
    offset: int = 0
    length: int = 0
    group: int = 0
    skip: int = 0

    @property
    def part(self) -> str:
        """Return the name of its part of the output."""
        known = (self.file.name, self.file.size, self.file.modified, self.first, self.rows)
        key = hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()
        return f"part-{key[:20]}-{self.first:012d}.parquet"

    def __str__(self) -> str:
        """Return what a message calls it."""
        return f"rows {self.first} to {self.first + self.rows - 1} of {self.file.name}"


def find_files(inputs: Sequence[str]) -> list[InputFile]:
    """Return the files that paths, folders, patterns and URIs mean, each once.

    Raises:
        InputError: An input means no file, or one of a kind that has no ranges of rows.
    """
    found: dict[str, InputFile] = {}
    for given in inputs:
        files = listed(given)
        known = [(name, info) for name, info in files if _suffix(name) in _KINDS]
        if not known:
            said = "is not a file or folder" if not files else "holds no file of a kind that is known"
            raise InputError(f"{given} {said}. Give {', '.join(sorted(_KINDS))} files, folders of them or patterns.")
        for name, info in known:
            file = InputFile(name, _KINDS[_suffix(name)], info.size or 0, info.mtime_ns or 0)
            found.setdefault(info.path, file)
    return list(found.values())


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def plan(file: InputFile, rows: int) -> list[Range]:
    """Return the ranges of a file, of at most `rows` rows each; [] for an empty one.

    Raises:
        InputError: It is no file of its kind, or has changed.
        OSError: It cannot be read.
    """
    filesystem, path = file.check()
    if file.kind == "parquet":
        return list(_of_row_groups(file, filesystem, path, rows))
    if file.kind == "markdown":
        with filesystem.open_input_file(path) as stream:
            text = stream.read().decode("utf-8-sig", "surrogateescape")
        count = sum(1 for _ in passages(text))
        return [Range(file, low + 1, min(rows, count - low)) for low in range(0, count, rows)]
    with filesystem.open_input_file(path) as stream:
        return list(_of_lines(file, stream, rows))


def _of_row_groups(file: InputFile, filesystem: Any, path: str, rows: int) -> Iterator[Range]:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        with filesystem.open_input_file(path) as stream:
            metadata = parquet.ParquetFile(stream).metadata
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.name} is no Parquet file: {error}.") from None
    first = 1
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        for low in range(0, count, rows):
            yield Range(file, first + low, min(rows, count - low), group=group, skip=low)
        first += count


def _of_lines(file: InputFile, stream: Any, rows: int) -> Iterator[Range]:
    """Yield ranges of lines that end as Python ends them in text files: LF, CR LF or a lone CR."""
    begin = first = 0  # byte and line at which the range begins
    count = 0  # lines that have ended
    reached = 0
    for found in _line_ends(stream):
        ends = found
        while count + len(ends) >= first + rows:
            taken = first + rows - count
            yield Range(file, first + 1, rows, begin, int(ends[taken - 1]) - begin)
            begin, first, count, ends = int(ends[taken - 1]), first + rows, first + rows, ends[taken:]
        count += len(ends)
        reached = int(ends[-1]) if len(ends) else reached
    last = int(file.size > max(begin, reached))  # a line without an end
    if count + last > first:
        yield Range(file, first + 1, count + last - first, begin, file.size - begin)


def _line_ends(stream: Any) -> Iterator[np.ndarray]:
    """Yield int64 arrays of the bytes after line ends."""
    place = 0
    chunk = stream.read(_CHUNK)
    while chunk:
        following = stream.read(_CHUNK)
        values = np.frombuffer(chunk, dtype=np.uint8)
        ends = values == 10
        if b"\r" in chunk:
            after = np.append(values[1:], np.uint8(following[0] if following else 0))
            ends |= (values == 13) & (after != 10)
        yield np.flatnonzero(ends) + (place + 1)
        place += len(chunk)
        chunk = following
