"""Local and remote files by path or URI, as pyarrow knows them."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError

_MAGIC = re.compile(r"[*?\[]")


def locate(path: str) -> tuple[Any, str]:
    """Return the filesystem of a path or URI, and the path on it.

    Raises:
        ConfigError: pyarrow knows no such filesystem, and neither does fsspec.
    """
    fs = require("pyarrow.fs")
    if "://" not in path:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    pa = require("pyarrow")
    try:
        filesystem, found = fs.FileSystem.from_uri(path)
    except (ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        protocol = path.split("://", 1)[0]
        try:
            known = require("fsspec").filesystem(protocol)
        except (ValueError, ImportError):
            message = f"{path!r} cannot be opened: {error}. Give a path, or a URI that pyarrow reads."
            raise ConfigError(message) from None
        return fs.PyFileSystem(fs.FSSpecHandler(known)), path.split("://", 1)[1]
    return filesystem, found


def listed(path: str) -> list[tuple[str, Any]]:
    """Return (name, file information) of the files that a path, a folder or a pattern means, by name.

    A name is what was given, with the rest of the path behind a folder. Names that begin with "." or "_" are left out
    of folders and patterns, as everywhere in data lakes.
    """
    fs = require("pyarrow.fs")
    filesystem, place = locate(path)
    info = filesystem.get_file_info(place)
    if info.type == fs.FileType.File:
        return [(path, info)]
    if info.type == fs.FileType.Directory:
        base, pattern = place, re.compile(".*", re.DOTALL)
    elif _MAGIC.search(place):
        base = place[: _MAGIC.search(place).start()].rpartition("/")[0] or "/"  # type: ignore[union-attr]
        pattern = re.compile(_expression(place), re.DOTALL)
    else:
        return []
    prefix = path[: len(path) - len(place)] if path.endswith(place) else None
    found = []
    for entry in filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True)):
        inside = entry.path[len(base) :].strip("/")
        hidden = any(part[0] in "._" for part in inside.split("/") if part)
        if entry.type == fs.FileType.File and not hidden and pattern.fullmatch(entry.path):
            found.append((_name(path, base, inside, prefix), entry))
    return sorted(found, key=lambda one: one[1].path)


def _name(path: str, base: str, inside: str, prefix: str | None) -> str:
    if _MAGIC.search(path):
        kept = path[: _MAGIC.search(path).start()].rpartition("/")  # type: ignore[union-attr]
        return f"{kept[0]}{kept[1]}{inside}"
    return f"{path.rstrip('/')}/{inside}" if path.strip("/") or prefix is None else f"{base}/{inside}"


def _expression(pattern: str) -> str:
    """Return a glob as a regular expression: `*` within a folder, `**` over folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)


def write_whole(filesystem: Any, folder: str, name: str, content: bytes | memoryview) -> None:
    """Put a file under its name when it is whole, whatever happens to this process or this machine meanwhile.

    The file is written under `_temporary` first. Who writes the same name at the same time writes the same content.
    """
    fs = require("pyarrow.fs")
    temporary = f"{folder}/_temporary/{name}.{uuid.uuid4().hex}"
    filesystem.create_dir(f"{folder}/_temporary", recursive=True)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            with Path(temporary).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, f"{folder}/{name}")
        else:
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(content)
            filesystem.move(temporary, f"{folder}/{name}")
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise
