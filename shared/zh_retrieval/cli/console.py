"""Where a command writes: UTF-8 streams, and messages and progress that outlive a standard error that is gone."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from zh_retrieval.progress import Bar

_GONE = (OSError, ValueError)  # a terminal that was closed; a stream that was
_EVERY = 60.0  # seconds between lines where there is no terminal


def prepare() -> None:
    """Make standard output and error UTF-8, as input is, whatever the locale says.

    A terminal keeps its own encoding: what it cannot show is replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(*_GONE):
            if not isinstance(stream, io.TextIOWrapper):
                continue
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def has_terminal() -> bool:
    """Return True if somebody may look at standard error now."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except _GONE:
        return False


def say(message: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is not None:  # print(file=None) would go to standard output
        try:
            print(f"zh-retrieval: {message}", file=sys.stderr, flush=True)
        except _GONE:
            to_nowhere(sys.stderr)


def to_nowhere(stream: Any) -> None:
    """Let a stream whose reader has gone write to the null device, so that its last flush at exit succeeds."""
    with suppress(*_GONE):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Progress:
    """How far a command is: a bar on a terminal; elsewhere a line a minute, also while nothing moves.

    Attributes:
        units: What is counted.
        done: Units so far.
        lines: Lines said so far.
    """

    def __init__(self, unit: str) -> None:
        self.units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._bar = Bar(has_terminal(), unit=unit)
        self.done = 0
        self.lines = 0

    def __enter__(self) -> Progress:
        """Return itself; at the end of the block the bar is closed, or the lines end."""
        if not self._bar.shown:
            threading.Thread(target=self._tell, name="zh-retrieval-progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._bar.close()

    def advance(self, size: int) -> None:
        """Move on by so many units."""
        self.done += size
        self._bar.advance(size)

    def rate(self, done: int | None = None) -> str:
        """Return seconds and units a second so far, as a message says them; `done`: units that were computed."""
        seconds = time.monotonic() - self._begun
        computed = self.done if done is None else done
        return f"{seconds:.1f} s, {computed / seconds if seconds else 0.0:.1f} {self.units}/s"

    def _tell(self) -> None:
        while not self._ended.wait(_EVERY):
            self.lines += 1
            say(f"{self.done} {self.units}, {self.rate()}")


def summary(shown: Progress, computed: int, output: str) -> str:
    """Return the line at the end of a command that wrote a file; `computed` units were not there before."""
    before = f"; {shown.done - computed} were finished before" if computed < shown.done else ""
    return f"{shown.done} {shown.units} in {output}: {shown.rate(computed)}{before}"
