"""Memory that was freed goes back to the system: glibc keeps what many small pieces of bodies and answers took."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path

_GROWN = 32_000_000  # bytes above the least that was resident, from which it is worth a look
_WORTH = 8_000_000  # bytes that a look should give back
_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # seconds between two looks


class Memory:
    """Gives back what is free, now and then, more seldom while that brings nothing. Does nothing without glibc."""

    def __init__(self) -> None:
        self._least = resident()
        self._pause = _PAUSE
        self._next = time.monotonic() + _PAUSE

    @property
    def due(self) -> bool:
        """Return True if `give_back` is worth a try."""
        if time.monotonic() < self._next:
            return False
        now = resident()
        self._least = min(self._least, now)
        return now > self._least + _GROWN

    def give_back(self) -> None:
        """Give free pages back. Takes milliseconds, for large heaps tens of them."""
        before = resident()
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
        self._pause = _PAUSE if before - resident() > _WORTH else min(_LONGEST_PAUSE, 2 * self._pause)
        self._next = time.monotonic() + self._pause


def resident() -> int:
    """Return the resident bytes of the process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return 0
