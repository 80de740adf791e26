"""A call cut into requests that a server takes, a few of them under way at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from zh_retrieval.errors import InputError
from zh_retrieval.progress import Bar
from zh_retrieval.remote.dialects.base import Answer, ModelInfo

ItemT = TypeVar("ItemT")
Ask = Callable[[int, int], Awaitable[Answer]]
"""Asks for the inputs of a range."""

_UNDER_WAY = 4  # requests of one call: enough to keep a server busy while answers travel
_ROUND_IT = 8  # bytes of JSON around each item: brackets and commas


def cut(
    items: Sequence[ItemT], served: ModelInfo, texts_of: Callable[[ItemT], Sequence[str]], prompt: str = ""
) -> list[tuple[int, int]]:
    """Return the ranges of items that fit one request each; one that fits none goes alone, and the server says why.

    Bytes are those of the JSON that is sent, where a tab is two and a control character six; `prompt` is put before
    each item.
    """
    ranges: list[tuple[int, int]] = []
    low = size = 0
    around = _sent(prompt) + _ROUND_IT
    for index, item in enumerate(items):
        own = sum(map(_sent, texts_of(item))) + around
        if index > low and (index - low >= served.max_texts or size + own > served.max_bytes * 0.9):
            ranges.append((low, index))
            low, size = index, 0
        size += own
    if low < len(items):
        ranges.append((low, len(items)))
    return ranges


def _sent(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())


async def gather(ranges: Sequence[tuple[int, int]], ask: Ask, out: np.ndarray, what: str, bar: Bar) -> int:
    """Fill `out` with the answers' rows, and return how many inputs were cut; a failure cancels what is under way."""
    gate = asyncio.Semaphore(_UNDER_WAY)

    async def one(low: int, high: int) -> int:
        async with gate:
            count = await _filled(low, high, ask, out, what)
        bar.advance(high - low)
        return count

    tasks: list[asyncio.Task[int]] = [asyncio.ensure_future(one(low, high)) for low, high in ranges]
    try:
        return sum(await asyncio.gather(*tasks))
    finally:
        await _cancelled(tasks)


async def _filled(low: int, high: int, ask: Ask, out: np.ndarray, what: str) -> int:
    """Ask for a range; where the server refuses it, for its halves, down to the one input that it refuses."""
    try:
        answer = await ask(low, high)
    except InputError as error:
        if high - low == 1:
            said, first, here = str(error), f"{what}[0]", f"{what}[{low}]"  # the server counts from its request's first
            raise type(error)(said.replace(first, here, 1) if first in said else f"{here}: {said}") from None
        middle = (low + high) // 2
        return await _filled(low, middle, ask, out, what) + await _filled(middle, high, ask, out, what)
    out[low:high] = answer.rows
    return answer.cut


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
