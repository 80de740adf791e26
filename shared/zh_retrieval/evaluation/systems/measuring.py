"""What a system costs: time of single calls, memory of the process, and under which conditions that was measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, TypeVar

from zh_retrieval.evaluation.systems.store import digest

ItemT = TypeVar("ItemT")

SAMPLE = 20  # queries that are asked one by one, for the latency


def conditions(options: Mapping[str, Any]) -> str:
    """Return a key of all that times depend on: this machine, the cores it may use, and the options given.

    A time that was measured under another key is another machine's, or that of other threads or another budget.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "ZH_RETRIEVAL_"))}
    environment.pop("ZH_RETRIEVAL_API_KEY", None)
    facts = [platform.node(), platform.machine(), cores, environment, dict(options)]
    return digest([json.dumps(facts, sort_keys=True, default=repr)])


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
        peak: Bytes; None where the system does not say (it does on Linux), and before the first look.
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
