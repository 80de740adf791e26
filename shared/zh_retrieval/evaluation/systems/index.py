"""The vectors of a corpus, block by block on a shelf, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from zh_retrieval.evaluation.systems.search import Block
from zh_retrieval.evaluation.systems.store import Shelf

if TYPE_CHECKING:
    import numpy as np


class Index:
    """The blocks of a corpus and what is known of them.

    Attributes:
        ids: Of all passages.
        keys: Names of the blocks.
        computed: How many of them were computed now.
        seconds: What those took to compute that were computed under the conditions of this run.
        timed: How many passages are in those.
        bytes: Size of the vectors.
        cuts: Passage -> tokens, of those longer than the model reads.
        limit: Tokens that the model reads.
    """

    def __init__(self, ids: Sequence[str], shelf: Shelf, conditions: str) -> None:
        self.ids = ids
        self.keys: list[str] = []
        self.computed = 0
        self.seconds = 0.0
        self.timed = 0
        self.bytes = 0
        self.cuts: dict[str, int] = {}
        self.limit = 0
        self._shelf = shelf
        self._conditions = conditions

    def add(self, key: str, names: Sequence[str], block: Mapping[str, np.ndarray]) -> None:
        """Take a block that is on the shelf: vectors, counts, seconds, tokens, limit, conditions."""
        self.keys.append(key)
        if "conditions" in block and str(block["conditions"]) == self._conditions:
            self.seconds += float(block["seconds"])
            self.timed += len(names)
        self.bytes += block["vectors"].nbytes
        self.limit = int(block["limit"])
        for name, tokens in zip(names, block["tokens"].tolist(), strict=False):
            if tokens > self.limit:
                self.cuts[name] = tokens

    def held(self, size: int) -> list[Block]:
        """Return the first blocks, up to about `size` bytes and at least one."""
        blocks: list[Block] = []
        for vectors, counts in self.blocks():
            blocks.append((vectors, counts))
            size -= vectors.nbytes
            if size <= 0:
                break
        return blocks

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in order, from the shelf."""
        for key in self.keys:
            block = self._shelf.load(key)
            if block is None:
                raise FileNotFoundError(f"A block of vectors went away while it was searched: {key}")
            yield block["vectors"], block["counts"]
