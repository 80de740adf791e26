"""One event loop in a thread of its own for all requests of a process.

Connections belong to the loop that opened them, while callers come from threads without a loop, and from loops that
end with each `asyncio.run`: so they all hand over here, and connections live as long as the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from zh_retrieval import process

T = TypeVar("T")


class Portal:
    """A running loop. A forked child has another."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="zh-retrieval-remote", daemon=True).start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Return the future of the work; cancelling it cancels the work."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work gives; whoever is interrupted while waiting leaves no request behind."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work gives; the caller's loop goes on, and cancelling it cancels the work."""
        return await asyncio.wrap_future(self.start(work))


_LOCK = process.held_over_fork(threading.RLock())  # a handle may be collected, and let go, while it is held
_RUNNING: list[Portal] = []  # one at most


def portal() -> Portal:
    """Return the process's portal."""
    with _LOCK:
        if not _RUNNING:
            _RUNNING.append(Portal())
        return _RUNNING[0]


process.in_child(_RUNNING.clear)
