"""The threads that tokenize for event loops: not the loops' own, which others need for names and files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zh_retrieval import process

ResultT = TypeVar("ResultT")

INLINE = 4096
"""Characters that are tokenized on an event loop: quicker than a thread."""

_LONG = 2**18  # characters that take so long that they wait in a queue of their own
_POOLS: dict[str, ThreadPoolExecutor] = {}  # made when first needed


def tokenizers(characters: int = 0) -> ThreadPoolExecutor:
    """Return the threads for texts of so many characters: long ones have their own, so that no short one waits."""
    name, workers = ("zh-retrieval-long", 2) if characters > _LONG else ("zh-retrieval-text", 4)
    pool = _POOLS.get(name)
    return pool or _POOLS.setdefault(name, ThreadPoolExecutor(workers, thread_name_prefix=name))


async def tokenizing(characters: int, work: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """Return `work(*arguments)`, which reads so many characters, while the event loop goes on."""
    if characters <= INLINE:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(tokenizers(characters), work, *arguments)


process.in_child(_POOLS.clear)
