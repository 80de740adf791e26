"""Results as frameworks want them: lists of Python floats, copies of what the caller gave."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zh_retrieval.aside import aside

if TYPE_CHECKING:
    import numpy as np

    from zh_retrieval.sparse.vector import SparseVector

MadeT = TypeVar("MadeT")

_CONVERTED_AT_ONCE = 50_000  # numbers: about 1 ms
_SPARSE_AT_ONCE = 500  # numbers that become entries of a dictionary: 0.05 ms
_PIECE = 64  # sparse vectors


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


async def as_each(vectors: Sequence[SparseVector], make: Callable[[SparseVector], MadeT]) -> list[MadeT]:
    """Return what `make` makes of each sparse vector; of many beside the event loop, a few at a time."""
    if sum(map(len, vectors)) <= _SPARSE_AT_ONCE:
        return list(map(make, vectors))
    made: list[MadeT] = []
    for low in range(0, len(vectors), _PIECE):
        made += await aside(_each, vectors[low : low + _PIECE], make)
    return made


def _each(vectors: Sequence[SparseVector], make: Callable[[SparseVector], MadeT]) -> list[MadeT]:
    return list(map(make, vectors))


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return deep copies of the values, and the value itself where it cannot be copied: a lock, a file, a generator.

    Such a thing in one document's metadata must not cost a chain all its results, and there is but one of it anyway.
    """
    copies: dict[str, Any] = {}
    memo: dict[int, Any] = {}
    for name, value in values.items():
        try:
            copies[name] = copy.deepcopy(value, memo)
        except Exception:  # whatever the value's own __deepcopy__ or __reduce_ex__ raises
            copies[name] = value
    return copies
