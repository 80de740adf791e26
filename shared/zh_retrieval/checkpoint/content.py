"""The content of one file: its SHA-256, read once for as long as the file system says that the file is the same.

What is known of a large file is kept in the cache folder, too, so that the next process need not read 14 GB again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zh_retrieval.hub.cache import modelscope_root, root_if_known

_BLOCK = 1 << 20  # bytes that are read at a time
_SETTLED = 2_000_000_000  # ns after its last change from which on a file's state stands for its content: clocks tick
_LARGE = 1_000_000_000  # bytes of a file whose hash is worth a file


class FileState(NamedTuple):
    """What a file system says of a file. Equal states of one machine are equal content."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """Return the state that a stat found."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_KNOWN: dict[FileState, str] = {}  # SHA-256 of what was hashed


def sha256_of(number: int, state: FileState) -> str:
    """Return the hex SHA-256 of an open file, which is remembered by its state."""
    known = _KNOWN.get(state) or _kept(state)
    if known is None:
        digest = hashlib.sha256()
        for block in blocks_of(number):
            digest.update(block)
        known = digest.hexdigest()
    settled = time.time_ns() - max(state.mtime_ns, state.ctime_ns) > _SETTLED
    if settled and FileState.of(os.fstat(number)) == state:
        _KNOWN[state] = known
        _keep(state, known)
    return known


def blocks_of(number: int) -> Iterator[bytes]:
    """Yield the bytes of an open file. Its place, which a forked child shares, is left alone; Windows has no forks."""
    place = 0
    while True:
        if hasattr(os, "pread"):
            block = os.pread(number, _BLOCK, place)
        else:
            os.lseek(number, place, os.SEEK_SET)
            block = os.read(number, _BLOCK)
        if not block:
            return
        yield block
        place += len(block)


def _file_of(state: FileState) -> Path | None:
    """Return where the hash of a large file is kept; None for a small one, and for users without a place."""
    root = root_if_known(modelscope_root) if state.size >= _LARGE else None
    name = hashlib.sha256(repr(tuple(state)).encode()).hexdigest()[:40]
    return None if root is None else root / "zh-retrieval-hashes" / name


def _kept(state: FileState) -> str | None:
    file = _file_of(state)
    if file is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        found = file.read_text(encoding="ascii")
        return found if re.fullmatch("[0-9a-f]{64}", found) else None
    return None


def _keep(state: FileState, digest: str) -> None:
    file = _file_of(state)
    if file is None or file.exists():
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written to: the next process reads again
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        partial.write_text(digest, encoding="ascii")
        partial.replace(file)
