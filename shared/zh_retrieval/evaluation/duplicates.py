"""Passages that hold the text of a right answer, and would count as wrong.

Equal texts are found exactly; near ones by shingles of 5 characters. Every fourth shingle, by its hash, proposes a
pair; all shingles of the pair then decide. Punctuation, white space, case and width do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zh_retrieval.evaluation.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np

CONTAINED = 0.8
"""The share of a right passage's shingles that another one must have to hold the same."""
_SHINGLE = 5  # characters
_SHORTEST = 20  # characters; shorter texts must be equal
_SAMPLED = 4
_COMMON = 20  # a shingle of more right passages than this is boilerplate
_BLOCK = 4096  # passages
_NOISE = re.compile(r"[\W_]+")


def normalized(text: str) -> str:
    """Return the letters and digits of a text alone, in one width and case."""
    return _NOISE.sub("", unicodedata.normalize("NFKC", text).casefold())


def equal_passages(dataset: Dataset) -> list[list[str]]:
    """Return the groups of ids whose passages have the same text, empty ones aside."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, passage in dataset.corpus.items():
        if text := normalized(passage.text):
            groups[hash(text)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def twins(dataset: Dataset) -> dict[str, dict[str, str]]:
    """Return query id -> passage that is not judged right -> right passage whose text it holds."""
    right = {
        name: normalized(dataset.corpus[name].text)
        for query in dataset.judged
        for name, grade in dataset.qrels[query].items()
        if grade > 0 and name in dataset.corpus
    }
    holders = _holders(right, dataset)
    found: dict[str, dict[str, str]] = {}
    for query in dataset.judged:
        grades = dataset.qrels[query]
        for name, grade in grades.items():
            for other in holders.get(name, ()) if grade > 0 else ():
                if grades.get(other, 0) <= 0:
                    found.setdefault(query, {})[other] = name
    return found


def _holders(right: Mapping[str, str], dataset: Dataset) -> dict[str, list[str]]:
    """Return right passage -> the other passages that hold its text, in the corpus's order."""
    names = [name for name, text in right.items() if text]
    exact: dict[str, list[str]] = defaultdict(list)
    for name in names:
        exact[right[name]].append(name)
    index = _Index([right[name] for name in names])
    found: dict[str, list[str]] = defaultdict(list)
    ids = list(dataset.corpus)
    for low in range(0, len(ids), _BLOCK):
        block = ids[low : low + _BLOCK]
        texts = [normalized(dataset.corpus[name].text) for name in block]
        for name, text in zip(block, texts, strict=True):
            for same in exact.get(text, ()):
                if same != name:
                    found[same].append(name)
        for place, answer in index.proposals(texts):
            whole = right[names[answer]]
            if block[place] != names[answer] and texts[place] != whole and _contained(whole, texts[place]):
                found[names[answer]].append(block[place])
    return found


def _contained(inner: str, outer: str) -> bool:
    wanted = {inner[start : start + _SHINGLE] for start in range(len(inner) - _SHINGLE + 1)}
    had = {outer[start : start + _SHINGLE] for start in range(len(outer) - _SHINGLE + 1)}
    return len(wanted & had) >= CONTAINED * len(wanted)


class _Index:
    """Sampled shingles of the right passages."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        hashes, owners = _sample([text if len(text) >= _SHORTEST else "" for text in texts])
        pairs = np.unique(np.stack([hashes, owners.astype(np.uint64)]), axis=1)
        values, counts = np.unique(pairs[0], return_counts=True)
        kept = np.isin(pairs[0], values[counts <= _COMMON])
        self._hashes, self._owners = pairs[0][kept], pairs[1][kept].astype(np.int64)
        self._sizes = np.bincount(self._owners, minlength=len(texts))

    def proposals(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Return (place in `texts`, right passage) where at least half of the sampled shingles are shared."""
        import numpy as np

        hashes, owners = _sample(texts)
        if not len(hashes) or not len(self._hashes):
            return []
        low = np.searchsorted(self._hashes, hashes, "left")
        counts = np.searchsorted(self._hashes, hashes, "right") - low
        starts = np.repeat(low - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        rows = starts + np.arange(counts.sum())
        triples = np.stack([np.repeat(owners, counts), self._owners[rows], rows])
        triples = np.unique(triples, axis=1)  # a shingle that a text has twice counts once
        pairs, shared = np.unique(triples[:2], axis=1, return_counts=True)
        enough = shared >= 0.5 * self._sizes[pairs[1]]
        return [(int(place), int(answer)) for place, answer in pairs[:, enough].T]


def _sample(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return uint64 hashes of every fourth shingle, and which text each is of."""
    import numpy as np

    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    windows = len(codes) - _SHINGLE + 1
    if windows <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    hashes = np.zeros(windows, dtype=np.uint64)
    for shift in range(_SHINGLE):
        hashes = (hashes + codes[shift : shift + windows]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    inside = owners[:windows] == owners[_SHINGLE - 1 :]
    kept = inside & (hashes % np.uint64(_SAMPLED) == 0)
    return hashes[kept], owners[:windows][kept]
