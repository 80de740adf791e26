"""Local and remote folders by path or URI, as pyarrow knows them."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError
from zh_retrieval.files import whole


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


def write_whole(filesystem: Any, folder: str, name: str, content: bytes | memoryview) -> None:
    """Put a file under its name when it is whole, whatever happens to this process or this machine meanwhile.

    The file is written under `_temporary` first. Who writes the same name at the same time writes the same content.
    """
    temporary = f"{folder}/_temporary"
    filesystem.create_dir(temporary, recursive=True)
    if isinstance(filesystem, require("pyarrow.fs").LocalFileSystem):
        whole.write_whole(Path(folder) / name, lambda path: path.write_bytes(content), within=Path(temporary))
        return
    written = f"{temporary}/{uuid.uuid4().hex}"
    try:
        with filesystem.open_output_stream(written) as stream:
            stream.write(content)
        filesystem.move(written, f"{folder}/{name}")
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(written)
        raise
