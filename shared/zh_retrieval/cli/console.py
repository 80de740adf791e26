"""Where a command writes: UTF-8 streams, and messages and bars that outlive a standard error that is gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from zh_retrieval.progress import Bar

_GONE = (OSError, ValueError)  # a terminal that was closed; a stream that was


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


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a bar on by so many units; a bar is shown on a terminal, as long as there is one."""
    with Bar(has_terminal(), unit=unit) as bar:
        yield bar.advance
