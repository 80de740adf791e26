"""Two rankings of one question, as frameworks give them, fused: which way scores run, and what is the same document."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from zh_retrieval.errors import InputError
from zh_retrieval.sparse.fusion import fuse

ItemT = TypeVar("ItemT")
FirstT = TypeVar("FirstT")
SecondT = TypeVar("SecondT")
_CLEAR = 10  # times as far down as up, or the other way round: ordered but for rounding
_NOISE = 1e-5  # of a score, what float32 may make of equal ones


@dataclass(frozen=True, slots=True)
class Found(Generic[ItemT]):
    """One result of one side.

    Attributes:
        item: The document or node.
        id: Its id, if it has one.
        text: Its content.
        score: As the side gave it, a similarity or a distance.
    """

    item: ItemT
    id: str | None
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Hybrid(Generic[ItemT]):
    """One result of both.

    Attributes:
        item: The dense side's, or where only the lexical side found it, that one's.
        score: The weighted sum of z-scores.
        dense: The dense side's own score, None if it did not find the item.
        lexical: The lexical side's.
    """

    item: ItemT
    score: float
    dense: float | None
    lexical: float | None


def fuse_sides(
    dense: Sequence[Found[ItemT]], lexical: Sequence[Found[ItemT]], *, weight: float, depth: int, k: int
) -> list[Hybrid[ItemT]]:
    """Return the k best of both sides, best first; see `zh_retrieval.sparse.fuse` for sums, ties and empty sides.

    Two results are one document if they have one id, else if they have one text: a store may have given it an id of its
    own. Equal texts of one side are different documents, and meet those of the other side in their order.

    Raises:
        InputError: A side's scores are not finite, or have no order.
    """
    signs: list[float] = []
    sides: list[list[Found[ItemT]]] = []
    for side, name in ((dense, "dense"), (lexical, "lexical")):
        sign = _sign([each.score for each in side], name)
        signs.append(sign)
        sides.append(sorted(side, key=lambda each: -sign * each.score))  # stable
    keys = _keys(*sides)
    items: dict[int, ItemT] = {}
    rankings: list[list[tuple[int, float]]] = []
    for side, named, sign in zip(sides, keys, signs, strict=True):
        rankings.append([(key, sign * each.score) for key, each in zip(named, side, strict=True)])
        for key, each in zip(named, side, strict=True):
            items.setdefault(key, each.item)

    def own(score: float | None, sign: float) -> float | None:
        return None if score is None else sign * score

    fused = fuse(rankings[0], rankings[1], weight=weight, depth=depth)[:k]
    return [
        Hybrid(items[each.id], each.score, own(each.dense, signs[0]), own(each.lexical, signs[1])) for each in fused
    ]


def _keys(dense: Sequence[Found[ItemT]], lexical: Sequence[Found[ItemT]]) -> tuple[list[int], list[int]]:
    """Return for each result the number of its document."""
    by_id: dict[str, int] = {}
    first = [by_id.setdefault(each.id, number) if each.id else number for number, each in enumerate(dense)]
    shared = {each.id for each in lexical if each.id in by_id}
    waiting: dict[str, list[int]] = {}  # what no id matches, by text, in order
    for key, each in zip(first, dense, strict=True):
        if each.id not in shared and key not in waiting.setdefault(each.text, []):
            waiting[each.text].append(key)
    second: list[int] = []
    for number, each in enumerate(lexical, len(dense)):
        if each.id is not None and each.id in by_id:
            second.append(by_id[each.id])
            continue
        met = waiting.get(each.text)
        key = met.pop(0) if met else number
        if each.id:
            by_id[each.id] = key
        second.append(key)
    return first, second


def _sign(scores: Sequence[float], side: str) -> float:
    """Return -1.0 if the scores are distances, else 1.0.

    A side gives its best result first, so scores that rise along its answer are distances. Scores that are all equal
    say nothing, and need not.
    """
    for place, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(f"Result {place} of the {side} side has the score {score!r}, expected a finite number.")
    steps = [later - earlier for earlier, later in itertools.pairwise(scores)]
    up, down = sum(step for step in steps if step > 0), -sum(step for step in steps if step < 0)
    noise = _NOISE * max(map(abs, scores), default=0.0)
    if min(up, down) * _CLEAR > max(up, down) > noise:
        raise InputError(
            f"The {len(scores)} scores of the {side} side neither fall nor rise along its answer ({scores[0]:.4g}, "
            f"{scores[1]:.4g}, ... {scores[-1]:.4g}): nobody can say whether they are similarities or distances. "
            "Give a store or a retriever that answers best first, with the scores by which it ranks."
        )
    return -1.0 if up > down else 1.0


async def side_by_side(first: Awaitable[FirstT], second: Awaitable[SecondT]) -> tuple[FirstT, SecondT]:
    """Return both results, awaited together; an error of one ends the other before it is raised."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        await asyncio.gather(*tasks)
        return tasks[0].result(), tasks[1].result()
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
