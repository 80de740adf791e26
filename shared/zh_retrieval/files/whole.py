"""The one way to write a local file: under its name it is whole, or what it was before."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], object]


def write_whole(target: Path, write: Write, *, within: Path | None = None) -> None:
    """Put a file under its name when `write` has filled it and the disk has it, whatever becomes of this process.

    `write` fills the file that it is given, which lies beside the target, or in the folder `within` on the same disk.
    Two who write one name at a time: one wins.

    Raises:
        OSError: It cannot be written; the target is what it was.
    """
    temporary = (within or target.parent) / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
