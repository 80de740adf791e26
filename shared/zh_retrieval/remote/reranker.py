"""Query and document pairs to scores, computed by a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Dialect, ModelInfo
from zh_retrieval.remote.model import RemoteModel
from zh_retrieval.remote.parts import cut
from zh_retrieval.validation import as_tuple, check_pairs


class RemoteReranker(RemoteModel, Reranker):
    """A reranking model on a server."""

    def __init__(
        self, spec: ModelSpec, client: Client, dialect: Dialect, served: ModelInfo, overflow: Overflow,
        scale: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(spec, client, dialect, served, overflow)
        self._scale = scale

    def _own_options(self) -> dict[str, Any]:
        return {} if self._scale == "auto" else {"score_scale": self._scale}

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
        check_pairs(taken)
        return tuple((query, document) for query, document in taken)

    async def _scores(self, pairs: tuple[Pair, ...], instruction: str | None, show_progress: bool) -> np.ndarray:
        async def ask(low: int, high: int) -> Answer:
            return await self._dialect.score(pairs[low:high], instruction)

        out = np.empty(len(pairs), dtype=np.float32)
        prompt = self.spec.format_query("", instruction) + self.spec.format_document("")
        ranges = cut(pairs, self.served, lambda pair: pair, prompt)
        return await self._gathered(ranges, ask, out, "pairs", show_progress)
