"""Some texts of an index: which of them hold a term, and how often.

Axes: N texts, V terms, P postings: a term and a text that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

MOST_TEXTS = 2**15
"""Texts of a segment: their scores stay in a processor's cache, and their numbers fit into 16 bits."""
_MOST_TERMS = 2**24  # counted terms of the texts that become a segment at a time: 128 MB while they are sorted


def key(term: str) -> int:
    """Return a term as 64 bits: one or two characters as they are, what is longer as a hash.

    Two of n longer terms meet with probability n² / 2⁶⁴: one in a million for four million words.
    """
    if len(term) <= 2:
        return ord(term[0]) << 21 | (ord(term[1]) if len(term) == 2 else 0)
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "little") | 1 << 63


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Postings by term. Never changed, so that searches need no lock.

    Attributes:
        keys: uint64 (V,), rising: the terms.
        starts: uint32 (V + 1,): the postings of term v are starts[v] to starts[v + 1].
        texts: uint16 (P,), rising within a term: which text.
        counts: uint8, uint16 or uint32 (P,): how often the term is in it.
        lengths: uint32 (N,): terms of each text, all counted.
        serials: int64 (N,), rising: the number of each text in the index.
        alive: bool (N,): False for what was deleted.
    """

    keys: np.ndarray
    starts: np.ndarray
    texts: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    serials: np.ndarray
    alive: np.ndarray

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays."""
        parts = (self.keys, self.starts, self.texts, self.counts, self.lengths, self.serials, self.alive)
        return sum(part.nbytes for part in parts)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the postings of each term begin and end, equal where no text holds it; int64 each."""
        if not len(self.keys):
            return np.zeros((2, len(keys)), dtype=np.int64)[0], np.zeros(len(keys), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        there = self.keys[at] == keys
        begins = self.starts[at].astype(np.int64)
        return begins, np.where(there, self.starts[at + 1], begins)

    def without(self, serials: np.ndarray) -> Segment:
        """Return the segment with these texts deleted; all of them are in it."""
        alive = self.alive.copy()
        alive[np.searchsorted(self.serials, serials)] = False
        return replace(self, alive=alive)


def made(texts: Iterable[Sequence[str]], first: int) -> Iterator[Segment]:
    """Yield segments of the terms of texts, which are numbered from `first`; few texts are in memory at a time."""
    vocabulary: dict[str, int] = {}
    flat: list[np.ndarray] = []
    lengths: list[int] = []
    waiting = 0
    for terms in texts:
        flat.append(np.array([vocabulary.setdefault(term, len(vocabulary)) for term in terms], dtype=np.uint32))
        lengths.append(len(terms))
        waiting += len(terms)
        if len(lengths) == MOST_TEXTS or waiting >= _MOST_TERMS:
            yield _sorted(vocabulary, flat, lengths, first)
            first += len(lengths)
            vocabulary, flat, lengths, waiting = {}, [], [], 0
    if lengths:
        yield _sorted(vocabulary, flat, lengths, first)


def _sorted(vocabulary: dict[str, int], flat: list[np.ndarray], lengths: list[int], first: int) -> Segment:
    keys = np.fromiter(map(key, vocabulary), dtype=np.uint64, count=len(vocabulary))
    order = np.argsort(keys)
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys))
    sizes = np.array(lengths, dtype=np.uint32)
    pairs = place[np.concatenate(flat)] << 16  # (counted terms,): the term, then the text
    pairs |= np.repeat(np.arange(len(sizes)), sizes)
    pairs, counts = np.unique(pairs, return_counts=True)
    return Segment(
        keys=keys[order],
        starts=np.searchsorted(pairs >> 16, np.arange(len(keys) + 1)).astype(np.uint32),
        texts=(pairs & 0xFFFF).astype(np.uint16),
        counts=_narrow(counts),
        lengths=sizes,
        serials=np.arange(first, first + len(sizes)),
        alive=np.ones(len(sizes), dtype=bool),
    )


def merged(segments: Sequence[Segment]) -> Segment:
    """Return one segment of the texts of several, whose serials rise, without what was deleted."""
    keys = np.unique(np.concatenate([part.keys for part in segments]))
    numbers, counts, low = [], [], 0
    for part in segments:
        place = np.searchsorted(keys, part.keys)
        kept = part.alive[part.texts]
        renumbered = np.cumsum(part.alive) - 1 + low
        pairs = np.repeat(place, part.starts[1:].astype(np.int64) - part.starts[:-1]) << 16 | renumbered[part.texts]
        numbers.append(pairs[kept])
        counts.append(part.counts[kept].astype(np.uint32))
        low += int(part.alive.sum())
    pairs = np.concatenate(numbers)
    order = np.argsort(pairs, kind="stable")  # of runs that are sorted: linear
    pairs = pairs[order]
    used, starts = np.unique(pairs >> 16, return_index=True)
    return Segment(
        keys=keys[used],
        starts=np.append(starts, len(pairs)).astype(np.uint32),
        texts=(pairs & 0xFFFF).astype(np.uint16),
        counts=_narrow(np.concatenate(counts)[order]),
        lengths=np.concatenate([part.lengths[part.alive] for part in segments]),
        serials=np.concatenate([part.serials[part.alive] for part in segments]),
        alive=np.ones(low, dtype=bool),
    )


def _narrow(counts: np.ndarray) -> np.ndarray:
    """Return the counts in as few bytes as the largest needs."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def tidied(segments: Sequence[Segment]) -> list[Segment]:
    """Return fewer segments: small neighbours as one, none half deleted; each text is merged log(n) times."""
    kept: list[Segment] = []
    for part in segments:
        alive = int(np.count_nonzero(part.alive))
        if not alive:
            continue
        kept.append(part if alive * 2 > len(part.alive) else merged([part]))
        while len(kept) > 1 and _belong(*kept[-2:]):
            kept[-2:] = [merged(kept[-2:])]
    return kept


def _belong(left: Segment, right: Segment) -> bool:
    texts, postings = len(left.alive) + len(right.alive), len(left.texts) + len(right.texts)
    return len(left.alive) <= 2 * len(right.alive) and texts <= MOST_TEXTS and postings <= _MOST_TERMS
