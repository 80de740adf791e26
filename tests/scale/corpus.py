"""Made-up Chinese whose pairs of characters are distributed as those of real passages are.

Words of one to four characters are drawn by Zipf's law with Mandelbrot's offset, characters likewise; passages have the
lengths of encyclopedia paragraphs. What it was fitted to are CMRC 2018's 3471 passages of Wikipedia: see README of the
evaluation room for both columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHARACTERS = 6000
WORDS = 400_000
_FIRST = 0x4E00  # of the CJK unified ideographs
_BLOCK = 10_000  # passages made at a time
_OF_CHARACTERS = (30.0, 1.5)  # offset and exponent
_OF_WORDS = (16.0, 1.0)
_AGAIN = 0.25  # of a passage's words, those that it has used before


class Language:
    """Words and how often each is used; the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        alphabet = np.array([chr(_FIRST + number) for number in self._rng.permutation(CHARACTERS)])
        lengths = self._rng.choice([1, 2, 3, 4], size=WORDS, p=[0.02, 0.58, 0.25, 0.15])
        lengths[:300] = self._rng.choice([1, 2], size=300, p=[0.35, 0.65])  # the most frequent words are short
        drawn = self._draw(CHARACTERS, *_OF_CHARACTERS, int(lengths.sum()))
        text = "".join(alphabet[drawn].tolist())
        ends = np.cumsum(lengths).tolist()
        self._words = [text[low:high] for low, high in zip([0, *ends[:-1]], ends, strict=True)]

    def passages(self, count: int) -> Iterator[str]:
        """Yield passages of about 160 characters."""
        for low in range(0, count, _BLOCK):
            size = min(_BLOCK, count - low)
            lengths = np.clip(self._rng.lognormal(3.9, 0.5, size), 8, 400).astype(int)
            drawn = self._draw(WORDS, *_OF_WORDS, int(lengths.sum())).tolist()
            again = np.flatnonzero(self._rng.random(len(drawn)) < _AGAIN).tolist()
            for place, back in zip(again, self._rng.integers(1, 20, len(again)).tolist(), strict=True):
                drawn[place] = drawn[max(0, place - back)]
            begin = 0
            for length in lengths.tolist():
                words = [self._words[number] for number in drawn[begin : begin + length]]
                for place in range(9, length, 10):
                    words[place] += "，"
                yield "".join(words) + "。"
                begin += length

    def questions(self, passages: list[str]) -> list[str]:
        """Return a question for each: two stretches of the passage and words of any passage."""
        found = []
        for passage in passages:
            starts = self._rng.integers(0, max(1, len(passage) - 8), size=2).tolist()
            others = self._draw(WORDS, *_OF_WORDS, 3).tolist()
            parts = [passage[start : start + 5] for start in starts] + [self._words[number] for number in others]
            found.append("".join(parts))
        return found

    def _draw(self, count: int, offset: float, exponent: float, size: int) -> np.ndarray:
        """Return `size` numbers below `count`: number r with a chance of 1 / (r + offset) ** exponent."""
        shares = np.cumsum((np.arange(count) + 1 + offset) ** -exponent)
        return np.searchsorted(shares, self._rng.random(size) * shares[-1])
