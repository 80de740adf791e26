"""Work that may never come back, in threads that nothing waits for."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


async def apart(work: Callable[[], ResultT]) -> ResultT:
    """Return what `work` returns, computed in a daemon thread of its own.

    asyncio's own threads are waited for when the loop ends, and again when the interpreter does: a model that is being
    loaded, or a device that hangs, would keep the process.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[ResultT] = loop.create_future()

    def settle(put: Callable[[Any], None], value: Any) -> None:
        if not found.done():  # nobody waits any more
            put(value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            put, value = found.set_exception, error if not isinstance(error, StopIteration) else RuntimeError("stop")
        else:
            put, value = found.set_result, result  # type: ignore[assignment]
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, put, value)

    thread = threading.Thread(target=run, daemon=True, name="zh-retrieval-apart")
    _THREADS.add(thread)
    thread.start()
    return await found


def still_running() -> bool:
    """Return True if work that was begun by `apart` goes on."""
    return any(thread.is_alive() for thread in list(_THREADS))
