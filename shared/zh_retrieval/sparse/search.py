"""The best texts of segments for a query, by BM25 as Lucene computes it.

Axes: N texts of a segment, Q different terms of the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zh_retrieval.sparse.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a search sees: an index between two changes.

    Attributes:
        segments: All texts, their serials rising.
        norms: Per segment float64 (N,): k1 * (1 - b + b * length / average length); infinite for what was deleted.
        names: Ids by serial, also some of what was deleted; None: the serials are the ids.
        count: Texts that are there.
    """

    segments: tuple[Segment, ...]
    norms: tuple[np.ndarray, ...]
    names: Mapping[int, int | str] | None
    count: int

    @staticmethod
    def of(segments: Sequence[Segment], names: Mapping[int, int | str] | None, k1: float, b: float) -> State:
        """Return the state of these segments."""
        count = sum(int(part.alive.sum()) for part in segments)
        total = sum(int(part.lengths[part.alive].sum(dtype=np.int64)) for part in segments)
        average = total / count if total else 1.0
        norms = []
        for part in segments:
            norm = k1 * (1 - b + b * part.lengths / average)
            norm[~part.alive] = np.inf
            norms.append(norm)
        return State(tuple(segments), tuple(norms), names, count)

    def serials(self) -> list[int]:
        """Return the numbers of all texts that are there, rising."""
        return [serial for part in self.segments for serial in part.serials[part.alive].tolist()]

    def holds(self, serial: int) -> bool:
        """Return True if the text of this number is there."""
        for part in self.segments:
            if part.serials[0] <= serial <= part.serials[-1]:
                at = int(np.searchsorted(part.serials, serial))
                return bool(part.serials[at] == serial and part.alive[at])
        return False

    def search(self, weights: Mapping[int, float], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 serials and float64 scores of the best k texts, best first; of equals the lower serial first.

        Args:
            weights: The query: how often each term is in it, by key.
            k: How many texts are wanted.
        """
        keys = np.fromiter(weights.keys(), dtype=np.uint64, count=len(weights))
        ranges = [part.find(keys) for part in self.segments]
        idf = self._idf(ranges, len(keys)) * np.fromiter(weights.values(), dtype=np.float64, count=len(keys))
        serials, scores = np.empty(0, dtype=np.int64), np.empty(0)
        for part, norm, (begins, ends) in zip(self.segments, self.norms, ranges, strict=True):
            if not (begins < ends).any():
                continue
            sums = np.zeros(len(norm))
            for term in np.flatnonzero(begins < ends).tolist():
                texts = part.texts[begins[term] : ends[term]]
                counts = part.counts[begins[term] : ends[term]].astype(np.float64)
                sums[texts] += idf[term] * (counts / (counts + norm[texts]))
            floor = scores[-1] if len(scores) == k else 0.0  # of what equals the k-th, the earlier is there already
            found = np.flatnonzero(sums > floor)
            if len(found):
                serials, scores = _best(
                    np.concatenate([serials, part.serials[found]]), np.concatenate([scores, sums[found]]), k
                )
        return serials, scores

    def _idf(self, ranges: Sequence[tuple[np.ndarray, np.ndarray]], terms: int) -> np.ndarray:
        """Return ln(1 + (N - n + 0.5) / (n + 0.5)) of each term, for n of N texts that hold it."""
        holding = np.zeros(terms, dtype=np.int64)
        for part, (begins, ends) in zip(self.segments, ranges, strict=True):
            holding += ends - begins
            if not part.alive.all():
                for term in np.flatnonzero(begins < ends).tolist():
                    holding[term] -= np.count_nonzero(~part.alive[part.texts[begins[term] : ends[term]]])
        idf: np.ndarray = np.log1p((self.count - holding + 0.5) / (holding + 0.5))
        return idf


def _best(serials: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k, best first; the serials come in rising order but for those that were chosen before."""
    if len(scores) > k:
        least = np.partition(scores, -k)[-k]
        above = np.flatnonzero(scores > least)
        equal = np.flatnonzero(scores == least)
        equal = equal[np.argsort(serials[equal])][: k - len(above)]
        chosen = np.concatenate([above, equal])
        serials, scores = serials[chosen], scores[chosen]
    order = np.lexsort((serials, -scores))
    return serials[order], scores[order]
