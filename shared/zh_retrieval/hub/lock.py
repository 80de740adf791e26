"""One process at a time fills a snapshot; the others say what they wait for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zh_retrieval.hub.snapshot import PLAN, read_manifest, this_process
from zh_retrieval.progress import Bar

_LOGGER = logging.getLogger(__name__)
_PATIENCE = 2.0  # seconds of waiting that need no word
_STEP = 1.0  # seconds between two looks at the clock of the bar


@contextmanager
def exclusive(folder: Path, name: str, show_progress: bool, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock of a snapshot's folder for as long as the block runs.

    Whoever waits longer than `patience` seconds says once, as a warning, for whom and for which lock; a bar, where one
    is shown, says it too.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        other = _holder(folder)
        _LOGGER.warning("%s is being downloaded by %s: waiting for it (lock %s)", name, other, lock.lock_file)
        text = f"{name}: waiting for {other}"
        with Bar(show_progress, desc=text, bar_format="{desc} [{elapsed}]", leave=False) as bar:
            while not _acquired(lock):
                bar.refresh()
        _LOGGER.info("%s: waited for %s, going on", name, other)
    try:
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    plan = read_manifest(folder, PLAN)
    if plan is None or plan.writer is None:
        return "another process"
    return "another thread of this process" if plan.writer == this_process() else plan.writer


def _acquired(lock: Any) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=_STEP)
    except Timeout:
        return False
    return True
