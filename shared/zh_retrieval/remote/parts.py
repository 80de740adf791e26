"""A call cut into requests that a server takes, a few of them under way at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from zh_retrieval.progress import Bar
from zh_retrieval.remote.dialects.base import Answer, Served

ItemT = TypeVar("ItemT")

_UNDER_WAY = 4  # requests of one call: enough to keep a server busy while answers travel
_ROUND_IT = 64  # bytes of JSON around each text


def cut(items: Sequence[ItemT], served: Served, texts_of: Callable[[ItemT], Sequence[str]]) -> list[tuple[int, int]]:
    """Return the ranges of items that fit one request each; one that fits none goes alone, and the server says why."""
    ranges: list[tuple[int, int]] = []
    low = size = 0
    for index, item in enumerate(items):
        own = sum(len(text.encode()) + text.count("\n") + text.count('"') for text in texts_of(item)) + _ROUND_IT
        if index > low and (index - low >= served.max_texts or size + own > served.max_bytes * 0.9):
            ranges.append((low, index))
            low, size = index, 0
        size += own
    if low < len(items):
        ranges.append((low, len(items)))
    return ranges


async def gather(
    ranges: Sequence[tuple[int, int]], ask: Callable[[int, int], Awaitable[Answer]], out: np.ndarray, bar: Bar
) -> int:
    """Fill `out` with the answers' rows, and return how many inputs were cut; a failure cancels what is under way."""
    gate = asyncio.Semaphore(_UNDER_WAY)

    async def one(low: int, high: int) -> int:
        async with gate:
            answer = await ask(low, high)
        out[low:high] = answer.rows
        bar.advance(high - low)
        return answer.cut

    tasks: list[asyncio.Task[int]] = [asyncio.ensure_future(one(low, high)) for low, high in ranges]
    try:
        return sum(await asyncio.gather(*tasks))
    finally:
        await _cancelled(tasks)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
