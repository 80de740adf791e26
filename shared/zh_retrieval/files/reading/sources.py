"""The files that paths, folders, patterns and URIs mean."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.files.reading.kinds import Kind, endings, kind_of, unpack

_MAGIC = re.compile(r"[*?\[]")
_QUERY = re.compile(r"\?[A-Za-z_]\w*=.*\Z", re.DOTALL)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

FoundFile = tuple[str, str, int, str]
"""Name as it is said, path on its filesystem, bytes, and what changes when the file does."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was when it was looked for.

    Attributes:
        name: What was given; of a file in a folder or pattern, with the rest of its path behind.
        kind: What it holds.
        size: Bytes, packed as it is.
        modified: What changes when the file does: nanoseconds, a date or a hash, as its filesystem has it.
    """

    name: str
    kind: Kind
    size: int
    modified: str

    def open(self) -> BinaryIO:
        """Return its bytes, unpacked.

        Raises:
            InputError: It is not there. Reading what is broken raises InputError too.
            OSError: It cannot be read.
        """
        try:
            if is_uri(self.name):
                filesystem, path = locate(self.name)
                stream = cast("BinaryIO", filesystem.open(path, "rb"))
            else:
                stream = Path(self.name).expanduser().open("rb")
        except FileNotFoundError:
            raise InputError(f"{self.name} is not there any more, or not on every machine of the cluster.") from None
        return unpack(stream, self.kind.packed, self.name)

    def check(self) -> None:
        """Raise InputError if it has changed, OSError if it cannot be asked for."""
        found = next(iter(_found(self.name)[0]), None)
        if found is None:
            raise InputError(f"{self.name} is not there any more, or not on every machine of the cluster.")
        if found[2:] != (self.size, self.modified):
            raise InputError(f"{self.name} changed while the job ran. Run the same command again.")


def is_uri(path: str) -> bool:
    """Return True for "scheme://..."."""
    return _URI.match(path) is not None


def find(
    inputs: Sequence[str], *, without: Sequence[str] = (), say: Callable[[str], object] = lambda _: None
) -> list[Source]:
    """Return the files that paths, folders, patterns and URIs mean, each once, sorted within each input.

    Of folders and patterns, names that begin with "." or "_" are left out, as everywhere in data lakes, and so is what
    lies in `without` (a job's own output); what is of no known kind is left out with a line.

    Raises:
        InputError: An input means no file of a known kind; nothing was read yet.
        ConfigError: A URI is of no known kind.
    """
    own = [os.path.realpath(os.path.expanduser(path)) for path in without if not is_uri(path)]
    sources: dict[str, Source] = {}
    for given in inputs:
        found, several = _found(given)
        known: list[tuple[str, Source]] = []
        strange: list[str] = []
        for name, path, size, modified in found:
            if several and not is_uri(given) and _inside(path, own):
                continue
            kind = kind_of(_QUERY.sub("", name) if is_uri(name) else name)
            if kind is None:
                strange.append(name)
            else:
                known.append((path, Source(name, kind, size, modified)))
        if not known:
            said = "is not a file, a folder or a pattern that means one" if not found else "is no file of a known kind"
            said = "holds no file of a known kind" if several and found else said
            raise InputError(f"{given} {said}. Give {endings()}; folders of them, patterns, or - for standard input.")
        if strange:
            say(f"{given}: {len(strange)} files are of no known kind and left out, such as {strange[0]}")
        for path, source in known:
            sources.setdefault(path, source)
    return list(sources.values())


def _inside(path: str, folders: Sequence[str]) -> bool:
    place = os.path.realpath(path)
    return any(place == folder or place.startswith(folder + os.sep) for folder in folders)


def _found(given: str) -> tuple[list[FoundFile], bool]:
    """Return the files that an input means, and whether it may mean several."""
    return _remote(given) if is_uri(given) else _local(given)


def _local(given: str) -> tuple[list[FoundFile], bool]:
    path = os.path.expanduser(given)
    if os.path.isfile(path):
        return [_stat(given, path)], False
    if os.path.isdir(path):
        names = sorted(_walk(path))
        return [_stat(os.path.join(given, name), os.path.join(path, name)) for name in names], True
    if not _MAGIC.search(path):
        return [], False
    kept = re.split(r"[/\\]", path[: _MAGIC.search(path).start()])[:-1]  # type: ignore[union-attr]
    depth = len(kept)  # folders before the first mark are as they were said, whatever they begin with
    found = [
        name
        for name in sorted(glob.glob(path, recursive=True))
        if os.path.isfile(name) and not any(part[:1] in ("_", ".") for part in re.split(r"[/\\]", name)[depth:])
    ]
    return [_stat(name, name) for name in found], True


def _stat(name: str, path: str) -> FoundFile:
    found = os.stat(path)
    return name, os.path.realpath(path), found.st_size, str(found.st_mtime_ns)


def _walk(folder: str) -> Iterator[str]:
    """Yield the files below a folder, by their paths from there; hidden ones are not there."""
    seen: set[str] = set()  # links may lead round in a circle
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name for name in folders if name[0] not in "._" and os.path.realpath(os.path.join(place, name)) not in seen
        ]
        inside = os.path.relpath(place, folder)
        for name in names:
            if name[0] not in "._" and os.path.isfile(os.path.join(place, name)):
                yield name if inside == os.curdir else os.path.join(inside, name)


def locate(uri: str) -> tuple[Any, str]:
    """Return fsspec's filesystem of a URI, and the path on it.

    Where fsspec lacks a package for the scheme, or the URI has a query ("?region=..."), pyarrow's filesystem is used.

    Raises:
        ConfigError: Neither knows the scheme.
    """
    try:
        import fsspec
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise ConfigError(f"{uri!r} needs fsspec. Run: pip install fsspec") from error
    scheme = uri.split("://", 1)[0]
    problem: Exception | None = None
    if not _QUERY.search(uri):
        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
            return filesystem, str(path)
        except (ValueError, ImportError) as error:
            problem = error
    try:
        from pyarrow.fs import FileSystem

        filesystem, path = FileSystem.from_uri(uri)
    except (ImportError, ValueError, NotImplementedError) as error:
        message = f"{uri[:200]!r} cannot be opened: {problem or error}. Is {scheme!r} right, and its package installed?"
        raise ConfigError(message) from None
    return ArrowFSWrapper(filesystem), str(path)


def _remote(given: str) -> tuple[list[FoundFile], bool]:
    query = _QUERY.search(given)
    tail = query[0] if query else ""
    bare = given[: len(given) - len(tail)]
    filesystem, path = locate(given)
    place = path[: len(path) - len(tail)] if tail and path.endswith(tail) else path
    if filesystem.isfile(place):
        return [_described(given, filesystem.info(place))], False
    if filesystem.isdir(place):
        base, entries = place, filesystem.find(place, detail=True).values()
        front = bare.rstrip("/")
    elif mark := _MAGIC.search(place):
        base = place[: mark.start()].rpartition("/")[0]
        entries = filesystem.glob(place, detail=True).values()
        front = bare[: _MAGIC.search(bare).start()].rpartition("/")[0]  # type: ignore[union-attr]
    else:
        return [], False
    found = []
    for entry in sorted(entries, key=lambda one: str(one["name"])):
        inside = str(entry["name"])[len(base.rstrip("/")) :].strip("/")
        if entry.get("type") == "file" and not any(part[:1] in ("_", ".") for part in inside.split("/")):
            found.append(_described(f"{front}/{inside}{tail}", entry))
    return found, True


def _described(name: str, entry: dict[str, Any]) -> FoundFile:
    changes = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "md5Hash", "created")
    known: Any = next((entry[key] for key in changes if entry.get(key) is not None), "")
    known = known.timestamp() if hasattr(known, "timestamp") else known  # one filesystem may say it in two ways
    return name, f"{name.split('://', maxsplit=1)[0]}://{entry['name']}", int(entry.get("size") or 0), str(known)
