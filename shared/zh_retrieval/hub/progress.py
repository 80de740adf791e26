"""Bars on standard error that never stop the work, whatever becomes of standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

_GONE = (OSError, ValueError)  # a terminal that was closed; a stream that was


class Bar:
    """A tqdm bar, or nothing where none is asked for or nobody can see it; any thread may move it.

    Without this, a terminal that is closed while gigabytes come would end the download, and as a fault of the disk.
    """

    def __init__(self, show: bool, **options: Any) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        if show and sys.stderr is not None:
            from tqdm import tqdm

            try:
                self._bar = tqdm(**options)
            except _GONE:
                return

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._try(lambda bar: bar.close())

    def start(self) -> Callable[[int], None]:
        """Return what takes the bytes of a round; the client passes again what an earlier round has left."""
        self._try(lambda bar: bar.reset() if bar.n else None)
        return self.advance

    def advance(self, size: int) -> None:
        """Move by `size`."""
        self._try(lambda bar: bar.update(size))

    def refresh(self) -> None:
        """Draw again: the time has changed."""
        self._try(lambda bar: bar.refresh())

    def _try(self, action: Callable[[Any], object]) -> None:
        with self._lock:
            if self._bar is None:
                return
            try:
                action(self._bar)
            except _GONE:
                self._bar.disable = True  # or it would draw once more as it is collected
                self._bar = None
