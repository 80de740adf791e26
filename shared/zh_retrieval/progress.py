"""Bars on standard error that never stop the work, whatever becomes of standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


class _Stream:
    """A stream that is dropped at its first error.

    tqdm keeps its lock, which all bars of a process share, when a write fails: every other bar would wait for ever.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.gone = False

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, name: str, *arguments: Any) -> None:
        if not self.gone:
            try:
                getattr(self._stream, name)(*arguments)
            except Exception:  # a terminal that was closed, a pipe that is broken, whatever stands for standard error
                self.gone = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Bar:
    """A tqdm bar, or nothing where none is asked for or there is no standard error; any thread may move it."""

    def __init__(self, show: bool, **options: Any) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        if show and sys.stderr is not None:
            from tqdm import tqdm

            self._stream = _Stream(sys.stderr)
            self._bar = tqdm(file=self._stream, **options)

    @property
    def shown(self) -> bool:
        """Return True if somebody may see it."""
        return self._bar is not None and not self._stream.gone

    def __enter__(self) -> Bar:
        """Return the bar, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        self.close()

    def advance(self, size: int) -> None:
        """Move by `size`."""
        self._do("update", size)

    def reach(self, place: int) -> None:
        """Move to `place`, never back."""
        with self._lock:
            if self._bar is not None and place > self._bar.n:
                self._bar.update(place - self._bar.n)

    def start(self) -> Callable[[int], None]:
        """Return what moves the bar in a round of work; a later round begins again at nothing."""
        if self._bar is not None and self._bar.n:
            self._do("reset")
        return self.advance

    def refresh(self) -> None:
        """Draw again: the time has changed."""
        self._do("refresh")

    def close(self) -> None:
        """Leave it as it is."""
        self._do("close")

    def _do(self, name: str, *arguments: Any) -> None:
        with self._lock:
            if self._bar is not None:
                getattr(self._bar, name)(*arguments)
