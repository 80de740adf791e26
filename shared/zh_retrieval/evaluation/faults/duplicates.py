"""Passages that hold the text of a right answer, and would count as wrong.

Equal texts are found exactly; near ones by shingles of 5 characters. Every fourth shingle, by its hash, proposes a
pair; all shingles of the pair then decide. Punctuation, white space, case and width do not count, but for what makes
names and numbers what they are: 1.5 is not 15, C++ not C, GPT-4 not GPT4.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
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
_NAMED = r"(?<=[a-z0-9])[.+#/:-]+(?=[a-z0-9])|(?<=[a-z0-9])[+#%]+|(?<![a-z0-9])[+-](?=[0-9])"  # 1.5, c++, 5%, -10
_NOISE = re.compile(rf"({_NAMED})|[\W_]+")
_LONGEST = 40  # characters of a difference that is shown


@dataclass(frozen=True, slots=True)
class Twin:
    """A passage beside a right one.

    Attributes:
        right: The right passage whose text it shares.
        whole: True if it holds all of that text; False if at least 80 %: a name or a number may differ.
    """

    right: str
    whole: bool


Twins = Mapping[str, Mapping[str, Twin]]
"""Query id -> passage that is not judged right -> its twin."""


def normalized(text: str) -> str:
    """Return the letters and digits of a text, in one width and case, and the signs inside names and numbers."""
    return _NOISE.sub(lambda found: found[1] or "", unicodedata.normalize("NFKC", text).casefold())


def difference(right: str, other: str) -> str:
    """Return the first place where two texts differ: what stands in the right one, and what in the other."""
    first, second = normalized(right), normalized(other)
    for what, low, high, start, end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if what != "equal":
            return f"{_cut(first[low:high])} / {_cut(second[start:end])}"
    return "-"


def _cut(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def equal_passages(dataset: Dataset) -> list[list[str]]:
    """Return the groups of ids whose passages have the same text, empty ones aside."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, passage in dataset.corpus.items():
        if text := normalized(passage.text):
            groups[hash(text)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def twins(dataset: Dataset) -> dict[str, dict[str, Twin]]:
    """Return query id -> passage that is not judged right -> the right passage whose text it shares.

    One that differs and is judged wrong has been looked at: it is none.
    """
    right = {
        name: normalized(dataset.corpus[name].text)
        for query in dataset.judged
        for name, grade in dataset.qrels[query].items()
        if grade > 0 and name in dataset.corpus
    }
    holders = _holders(right, dataset)
    found: dict[str, dict[str, Twin]] = {}
    for query in dataset.judged:
        grades, others = dataset.qrels[query], found.setdefault(query, {})
        for name in (name for name, grade in grades.items() if grade > 0):
            for other, whole in holders.get(name, ()):
                looked_at = grades.get(other, 0) > 0 or (other in grades and not whole)
                if not looked_at and (other not in others or (whole and not others[other].whole)):
                    others[other] = Twin(name, whole)
    return {query: others for query, others in found.items() if others}


def _holders(right: Mapping[str, str], dataset: Dataset) -> dict[str, list[tuple[str, bool]]]:
    """Return right passage -> the other passages that hold its text, all of it or most, in the corpus's order."""
    names = [name for name, text in right.items() if text]
    exact: dict[str, list[str]] = defaultdict(list)
    for name in names:
        exact[right[name]].append(name)
    index = _Index([right[name] for name in names])
    found: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    ids = list(dataset.corpus)
    for low in range(0, len(ids), _BLOCK):
        block = ids[low : low + _BLOCK]
        texts = [normalized(dataset.corpus[name].text) for name in block]
        for name, text in zip(block, texts, strict=True):
            for same in exact.get(text, ()):
                if same != name:
                    found[same].append((name, True))
        for place, answer in index.proposals(texts):
            whole = right[names[answer]]
            if block[place] != names[answer] and texts[place] != whole and _contained(whole, texts[place]):
                found[names[answer]].append((block[place], whole in texts[place]))
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
