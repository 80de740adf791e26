"""One thread for work in Python that is too long for an event loop.

Such work holds the interpreter's lock most of the time: two threads of it are no quicker than one, and the loop would
wait for each of them in turn. What is long comes in pieces, so that a question does not wait behind a corpus.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from zh_retrieval import process

ResultT = TypeVar("ResultT")

_threads: list[ThreadPoolExecutor] = []
process.in_child(_threads.clear)  # a forked child has not its parent's thread


async def aside(work: Callable[..., ResultT], *arguments: object) -> ResultT:
    """Return what `work` returns, called beside the event loop, after what others gave before."""
    if not _threads:
        _threads.append(ThreadPoolExecutor(1, thread_name_prefix="zh-retrieval-aside"))
    called = partial(contextvars.copy_context().run, work, *arguments)
    return await asyncio.get_running_loop().run_in_executor(_threads[0], called)
