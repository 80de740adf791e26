"""Exact search: every vector is looked at, block by block, so that memory does not grow with the corpus.

Axes: Q queries, P passages of a block, R vectors of a block (one or more a passage), D numbers of a vector, K kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from zh_retrieval.evaluation.run import Ranking

if TYPE_CHECKING:
    import numpy as np

_MARGIN = 32  # more are kept than asked for: sums of another order than the final ones choose them
_TILE = 4096  # queries whose scores of a block are in memory at once

Block = tuple["np.ndarray", "np.ndarray"]
"""float32 (R, D) vectors, and int64 (P,) how many of them each passage has, at least 1."""


def order(ids: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Return the ids by score, the highest first; of equal scores the greater id first, as trec_eval does."""
    by_id = sorted(zip(ids, scores, strict=True), reverse=True)
    return [name for name, _ in sorted(by_id, key=lambda pair: -pair[1])]


def search(
    queries: np.ndarray,
    blocks: Callable[[], Iterable[Block]],
    ids: Sequence[str],
    top_k: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Ranking]:
    """Return the best `top_k` passages of each row of float32 (Q, D) `queries`, by their highest inner product.

    Blocks are read twice: once to choose, once to score the chosen in float64, a pair at a time. So equal vectors have
    equal scores wherever they stand, and the result does not depend on the number of threads.

    Args:
        queries: Query vectors.
        blocks: Gives the blocks of the corpus in order, each time it is called.
        ids: Of all passages, in the order of the blocks.
        top_k: How many passages are wanted.
        advance: Called with the passages of each block that was searched.
    """
    import numpy as np

    best = _Best(len(queries), min(len(ids), top_k + _MARGIN))
    low = 0
    for vectors, counts in blocks():
        for start in range(0, len(queries), _TILE):
            scores = queries[start : start + _TILE] @ vectors.T  # (Q, R)
            if len(vectors) != len(counts):
                scores = np.maximum.reduceat(scores, np.cumsum(counts) - counts, axis=1)  # (Q, P)
            best.add(start, low, scores)
        low += len(counts)
        advance(len(counts))
    exact = _rescore(queries, blocks(), best.places)
    return _ranked(best.places, exact, ids, top_k)


class _Best:
    """The best K passages of each query so far.

    Attributes:
        scores: float32 (Q, K), -inf where there is none yet.
        places: int64 (Q, K), -1 where there is none yet.
    """

    def __init__(self, queries: int, kept: int) -> None:
        import numpy as np

        self._kept = kept
        self.scores = np.full((queries, kept), -np.inf, dtype=np.float32)
        self.places = np.full((queries, kept), -1, dtype=np.int64)
        self._least = np.full(queries, -np.inf, dtype=np.float32)

    def add(self, start: int, low: int, scores: np.ndarray) -> None:
        """Take float32 (Q, P), the scores of passages `low` on, of queries `start` on."""
        import numpy as np

        rows, columns = np.nonzero(scores > self._least[start : start + len(scores), None])
        if not len(rows):
            return
        changed, firsts, counts = np.unique(rows, return_index=True, return_counts=True)
        width = int(counts.max())
        added = np.full((len(changed), width), -np.inf, dtype=np.float32)
        places = np.full((len(changed), width), -1, dtype=np.int64)
        line = np.repeat(np.arange(len(changed)), counts)
        column = np.arange(len(rows)) - np.repeat(firsts, counts)
        added[line, column] = scores[rows, columns]
        places[line, column] = low + columns
        changed += start
        added = np.concatenate([self.scores[changed], added], axis=1)
        places = np.concatenate([self.places[changed], places], axis=1)
        kept = np.argpartition(-added, self._kept - 1, axis=1)[:, : self._kept]
        self.scores[changed] = np.take_along_axis(added, kept, axis=1)
        self.places[changed] = np.take_along_axis(places, kept, axis=1)
        self._least[changed] = self.scores[changed].min(axis=1)


def _rescore(queries: np.ndarray, blocks: Iterable[Block], places: np.ndarray) -> np.ndarray:
    """Return float32 (Q, K): the inner product of each query with the passages at `places`; -inf for none."""
    import numpy as np

    exact = np.full(places.shape, -np.inf, dtype=np.float32)
    flat = places.reshape(-1)
    by_place = np.argsort(flat, kind="stable")
    ordered = flat[by_place]
    low = 0
    for vectors, counts in blocks:
        first, last = np.searchsorted(ordered, [low, low + len(counts)])
        starts = np.cumsum(counts) - counts
        for part in range(first, last, _TILE):
            slots = by_place[part : min(last, part + _TILE)]
            passages = flat[slots] - low
            sizes = counts[passages]
            firsts = np.cumsum(sizes) - sizes
            rows = np.repeat(starts[passages] - firsts, sizes) + np.arange(sizes.sum())
            asked = np.repeat(slots // places.shape[1], sizes)
            products = (queries[asked].astype(np.float64) * vectors[rows]).sum(axis=1)
            exact.reshape(-1)[slots] = np.maximum.reduceat(products, firsts)
        low += len(counts)
    return exact


def _ranked(places: np.ndarray, scores: np.ndarray, ids: Sequence[str], top_k: int) -> list[Ranking]:
    rankings = []
    for row, row_scores in zip(places, scores, strict=True):
        found: dict[str, float] = {
            ids[int(place)]: score for place, score in zip(row.tolist(), row_scores.tolist(), strict=True) if place >= 0
        }
        best = order(list(found), list(found.values()))[:top_k]
        rankings.append(Ranking(tuple(best), tuple(found[name] for name in best)))
    return rankings


def similarities(
    queries: Mapping[str, np.ndarray], wanted: Mapping[str, Sequence[str]], blocks: Iterable[Block], ids: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return query id -> passage id -> inner product in float64, of the best vector of a passage, for wanted pairs."""
    import numpy as np

    askers: dict[str, list[str]] = {}
    for query, names in wanted.items():
        for name in names:
            askers.setdefault(name, []).append(query)
    found: dict[str, dict[str, float]] = {query: {} for query in wanted}
    names_left = iter(ids)
    for vectors, counts in blocks:
        for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True):
            name = next(names_left)
            for query in askers.get(name, ()):
                products = vectors[end - count : end].astype(np.float64) @ queries[query].astype(np.float64)
                found[query][name] = float(products.max())
    return found
