"""Arrays as frameworks want them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_CONVERTED_AT_ONCE = 50_000  # numbers: about 1 ms


async def as_lists(vectors: np.ndarray) -> list[list[float]]:
    """Return the rows as lists of Python floats, made a few at a time so that the event loop goes on meanwhile.

    Not in a thread: that would hold the interpreter's lock, and the loop waits 5 ms whenever it has to ask for it.
    """
    step = max(1, _CONVERTED_AT_ONCE // max(1, vectors.shape[1]))
    lists: list[list[float]] = vectors[:step].tolist()
    for low in range(step, len(vectors), step):
        await asyncio.sleep(0)
        lists += vectors[low : low + step].tolist()
    return lists
