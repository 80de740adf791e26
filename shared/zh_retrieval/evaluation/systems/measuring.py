"""What a system costs: time of single calls, memory of the process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import TypeVar

ItemT = TypeVar("ItemT")


def median_ms(call: Callable[[ItemT], object], items: Sequence[ItemT]) -> float:
    """Return the median milliseconds of `call(item)`, after one call that does not count."""
    call(items[0])
    taken = []
    for item in items:
        start = time.perf_counter()
        call(item)
        taken.append((time.perf_counter() - start) * 1000)
    return median(taken)


class Memory:
    """The most memory that this process was seen to hold.

    Attributes:
        peak: Bytes; None where the system does not say (it does on Linux).
    """

    peak: int | None = None

    def look(self) -> None:
        """Look at it now."""
        if not sys.platform.startswith("linux"):
            return
        with suppress(OSError, ValueError), open("/proc/self/status", encoding="utf-8") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    self.peak = max(self.peak or 0, int(line.split()[1]) * 1024)
