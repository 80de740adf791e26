"""Long jobs that survive interruption: finished windows are kept beside the output until all are there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zh_retrieval.errors import ConfigError

_LOCK = "lock"
Write = Callable[[Path], object]


class Staging:
    """The folder `OUTPUT.partial`: one file for each finished window, and what job they belong to.

    A file appears under its name only when it is whole, so what is there counts and what is not is done again; the
    output appears under its name only when every window is in it.
    """

    def __init__(self, output: Path, job: dict[str, Any], *, restart: bool = False) -> None:
        """Open or resume the staging folder of `output`.

        Raises:
            ConfigError: Another process works on it, it holds another job's windows, or the output's folder does not
                exist.
        """
        self._output = output
        self._folder = output.with_name(output.name + ".partial")
        if not output.absolute().parent.is_dir():
            raise ConfigError(f"{output.absolute().parent} is not a folder. Create it, or choose another --output.")
        if output.is_dir():
            raise ConfigError(f"--output {str(output)!r} is a folder. Give the name of a file.")
        self._folder.mkdir(exist_ok=True)
        self._lock = FileLock(self._folder / _LOCK)
        try:
            self._lock.acquire(timeout=0)  # the system lets go of it when a process ends, however it ends
        except NotImplementedError:  # a filesystem without locks
            pass
        except Timeout:
            raise ConfigError(
                f"Another process is writing {output}: it holds {self._folder}. Wait for it, or choose another "
                "--output."
            ) from None
        try:
            if restart:
                self._clear()
            self._claim(json.dumps(job, sort_keys=True, default=str))
        except BaseException:
            self._lock.release()
            raise

    def _clear(self) -> None:
        """Remove all but the lock, which is held."""
        for entry in self._folder.iterdir():
            if entry.name != _LOCK:
                entry.unlink()

    def _claim(self, job: str) -> None:
        file = self._folder / "job.json"
        parts = [part for part in self._folder.iterdir() if part.name.isdigit()]
        if not file.exists():  # these are left of a job that was killed while it was cleared away: nobody knows whose
            for part in parts:
                part.unlink()
            parts = []
        if not parts:
            _atomically(file, lambda path: path.write_text(job, encoding="utf-8"))
        elif file.read_text(encoding="utf-8") != job:
            raise ConfigError(
                f"{self._folder} holds an interrupted job with another model, other options or other input. "
                "Use --restart to drop it, or choose another --output."
            )

    def __enter__(self) -> Staging:
        """Return itself; the lock is given back at the end of the block, and finished windows stay."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self._lock.release()

    def has(self, window: int) -> bool:
        """Return True if a window was finished, now or in an earlier run."""
        return self._part(window).exists()

    def add(self, window: int, write: Write) -> None:
        """Keep one finished window; `write` fills the file it is given."""
        _atomically(self._part(window), write)

    def finish(self, windows: int, join: Callable[[list[Path], Path], None]) -> None:
        """Make the output of all windows, in order, and remove the staging folder."""
        parts = [self._part(window) for window in range(windows)]
        whole = self._folder / "whole"
        _atomically(whole, lambda path: join(parts, path))
        whole.replace(self._output)
        self._clear()
        self._lock.release()
        with suppress(OSError):  # another process was quick to take the folder
            (self._folder / _LOCK).unlink(missing_ok=True)
            self._folder.rmdir()

    def _part(self, window: int) -> Path:
        return self._folder / f"{window:08d}"


def _atomically(target: Path, write: Write) -> None:
    temporary = target.with_name(f"{target.name}.tmp{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def concatenate(parts: list[Path], target: Path) -> None:
    """Join text or binary parts end to end."""
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)


def fingerprint(paths: list[str]) -> list[tuple[str, int, int]]:
    """Return what tells input files apart from changed ones: path, size, time of change."""
    stats = [(path, os.stat(path)) for path in paths if path != "-" and Path(path).exists()]
    return [(str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
