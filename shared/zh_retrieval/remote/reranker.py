"""Query and document pairs to scores, computed by a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.errors import InputError
from zh_retrieval.remote.dialects.base import Answer
from zh_retrieval.remote.model import RemoteModel
from zh_retrieval.remote.parts import cut
from zh_retrieval.validation import as_tuple, check_text


class RemoteReranker(RemoteModel, Reranker):
    """A reranking model on a server."""

    def score(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        taken = self._pairs(pairs, instruction)
        return self._run(lambda: self._scores(taken, instruction, show_progress))

    async def ascore(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        taken = self._pairs(pairs, instruction)
        return await self._arun(lambda: self._scores(taken, instruction, show_progress))

    def warmup(self) -> None:
        """Open the connection, and let the server compute one pair."""
        self.score([("暖机", "暖机")])

    def _pairs(self, pairs: Sequence[Pair], instruction: str | None) -> tuple[Pair, ...]:
        self.spec.format_query("", instruction)
        taken = as_tuple(pairs, "pairs", "(query, document)")
        for index, pair in enumerate(taken):
            if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise InputError(f"pairs[{index}] is {type(pair).__name__}, expected (query, document).")
            check_text(pair[0], f"pairs[{index}] query")
            check_text(pair[1], f"pairs[{index}] document")
        return tuple((query, document) for query, document in taken)

    async def _scores(self, pairs: tuple[Pair, ...], instruction: str | None, show_progress: bool) -> np.ndarray:
        async def ask(low: int, high: int) -> Answer:
            return await self._dialect.score(pairs[low:high], instruction)

        out = np.empty(len(pairs), dtype=np.float32)
        ranges = cut(pairs, self.served, lambda pair: pair)
        return await self._gathered(ranges, ask, out, "pairs", show_progress)
