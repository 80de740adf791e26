"""What is in a finished output, window by window, so that a corpus that has grown is not computed again.

It is kept in the user's cache, away from the output, and counts only while the output is what it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zh_retrieval.files.whole import write_whole

Window = tuple[str, int, Any]
"""Key, rows, and the window's place in the output as its format knows it."""


def kept_windows(outputs: Sequence[Path], job: dict[str, Any]) -> list[Window]:
    """Return the windows that finished files hold, if this job made them and nobody has changed them since; else []."""
    try:
        said = json.loads(_file(outputs[0]).read_text(encoding="utf-8"))
        if said["job"] == job and said["files"] == _state(outputs):
            return [(key, rows, place) for key, rows, place in said["windows"]]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours
        pass
    return []


def keep_windows(outputs: Sequence[Path], job: dict[str, Any], windows: Sequence[Window]) -> None:
    """Keep which windows finished files hold; where the cache cannot be written, a later run computes them again."""
    with suppress(OSError):
        file = _file(outputs[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"output": str(outputs[0]), "job": job, "files": _state(outputs), "windows": windows})
        write_whole(file, lambda path: path.write_text(content, encoding="utf-8"))


def _state(outputs: Sequence[Path]) -> list[list[int]]:
    return [[found.st_size, found.st_mtime_ns] for found in map(os.stat, outputs)]


def _file(output: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.blake2b(os.fsencode(os.path.realpath(output)), digest_size=16).hexdigest()
    return Path(base) / "zh-retrieval" / "jobs" / f"{name}.json"
