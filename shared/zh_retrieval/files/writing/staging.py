"""Long jobs that survive interruption: finished windows are kept beside the output until all are there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from zh_retrieval.errors import ConfigError
from zh_retrieval.files.whole import Write, write_whole
from zh_retrieval.files.writing.grown import keep_windows, kept_windows

if TYPE_CHECKING:
    from zh_retrieval.files.writing.encoded import Encoded
    from zh_retrieval.files.writing.vectors import Format

_LOCK = "lock"
_PART = re.compile(r"([0-9a-f]{32})-(\d+)\.part")


def own_files(output: str, beside: Sequence[str] = ()) -> list[str]:
    """Return what a job writes: no input, though it may lie in a folder that is one."""
    return [output, f"{output}.partial", *(f"{output}{ending}" for ending in beside)]


def check_output(output: str, inputs: Sequence[str], beside: Sequence[str] = ()) -> None:
    """Raise ConfigError if an output cannot be written, or is one of the inputs; nothing is made yet."""
    parent = Path(output).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{parent} is not a folder. Create it, or choose another --output.")
    if Path(output).is_dir():
        raise ConfigError(f"--output {output!r} is a folder. Give the name of a file.")
    own = {os.path.realpath(name) for name in own_files(output, beside)}
    for given in inputs:
        if given != "-" and os.path.realpath(os.path.expanduser(given)) in own:
            raise ConfigError(f"--output {output!r} would replace its own input {given!r}. Choose another name.")


class Staging:
    """The folder `OUTPUT.partial`: one file for each finished window, by its content, and what job they belong to.

    A file appears under its name only when it is whole, so what is there counts and what is not is done again; the
    output appears under its name only when every window is in it. A window is known by what is in it, not by its
    number: lines that were mended, added or left out change no other window.
    """

    def __init__(self, output: Path, job: dict[str, Any], form: Format, *, restart: bool = False) -> None:
        """Open or resume the staging folder of `output`.

        Args:
            output: The file that will be written.
            job: What decides about a window's content besides its records, by name.
            form: How windows become the output.
            restart: Drop what is there, and what the output has of an earlier run.

        Raises:
            ConfigError: Another process works on it, or it holds another job's windows.
        """
        self._form = form
        self._outputs = [output, *(output.with_name(output.name + ending) for ending in form.beside)]
        self._job = json.loads(json.dumps(job, sort_keys=True, default=str))
        self._before: dict[str, tuple[int, Any]] = {}  # windows of the output of an earlier run
        self._folder = output.with_name(output.name + ".partial")
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
            self._parts = self._claimed(self._job)
            if not restart:
                windows = kept_windows(self._outputs, self._job)
                self._before = {key: (rows, place) for key, rows, place in windows}
        except BaseException:
            self._lock.release()
            raise

    def _clear(self) -> None:
        """Remove all but the lock, which is held."""
        for entry in self._folder.iterdir():
            if entry.name != _LOCK:
                entry.unlink()

    def _claimed(self, job: dict[str, Any]) -> dict[str, Path]:
        """Return the windows of this job that are there, by their keys."""
        file = self._folder / "job.json"
        there = [entry for entry in self._folder.iterdir() if entry.name not in (_LOCK, file.name)]
        found = {match[1]: entry for entry in there if (match := _PART.fullmatch(entry.name))}
        numbered = [entry for entry in there if entry.name.isdigit()]  # windows of earlier versions
        known = [*found.values(), *numbered] if file.exists() else []
        for entry in there:  # half written when its process was killed, or left while it was cleared away: whose?
            if entry not in known:
                entry.unlink()
        if known:
            before = json.loads(file.read_text(encoding="utf-8"))
            differing = sorted(name for name in {*job, *before} if job.get(name) != before.get(name))
            if differing:
                raise ConfigError(
                    f"{self._folder} holds {len(known)} finished windows of another job: it differs in "
                    f"{', '.join(differing)}. Use --restart to drop them, or choose another --output."
                )
        else:
            content = json.dumps(job, sort_keys=True)
            write_whole(file, lambda path: path.write_text(content, encoding="utf-8"))
        return found if known else {}

    def __enter__(self) -> Staging:
        """Return itself; the lock is given back at the end of the block, and finished windows stay."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back; a folder in which nothing was finished goes away."""
        if self._lock.is_locked and not self._parts:
            self._clear()
        self._lock.release()
        self._remove()

    def rows(self, key: str) -> int | None:
        """Return how many rows a window has that was finished, now or in an earlier run; None if it was not."""
        if key not in self._parts and key in self._before:
            rows, place = self._before[key]
            self.add(key, rows, partial(self._form.extract, self._outputs, place))
        part = self._parts.get(key)
        return int(_PART.fullmatch(part.name)[2]) if part else None  # type: ignore[index]

    def add(self, key: str, rows: int, write: Write) -> None:
        """Keep one finished window; `write` fills the file it is given."""
        part = self._folder / f"{key}-{rows}.part"
        write_whole(part, write)
        self._parts[key] = part

    def finish(self, keys: Sequence[str], none: Encoded) -> None:
        """Make the output of the windows in order, and what is beside it, and remove the staging folder.

        Args:
            keys: Of the windows.
            none: What vectors are in them: those of no rows.
        """
        parts = [self._parts[key] for key in keys]
        whole = [self._folder / f"whole{number}" for number in range(len(self._outputs))]
        self._form.join(parts, whole, none)
        for made in whole:
            with made.open("rb") as stream:
                os.fsync(stream.fileno())
        places = self._form.places(parts)
        for made, target in reversed(list(zip(whole, self._outputs, strict=True))):  # the output itself is the last
            made.replace(target)
        rows = [self.rows(key) or 0 for key in keys]
        keep_windows(self._outputs, self._job, list(zip(keys, rows, places, strict=True)))
        self._clear()
        self._parts = {}

    def _remove(self) -> None:
        """Remove the folder if nothing but the lock is in it."""
        with suppress(OSError):  # another process was quick to take the folder
            if [entry.name for entry in self._folder.iterdir()] == [_LOCK]:
                (self._folder / _LOCK).unlink()
            self._folder.rmdir()
