"""What a started server consists of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from zh_retrieval import usage
from zh_retrieval.base import Encoder, Pair, Reranker, Span
from zh_retrieval.errors import CheckpointError
from zh_retrieval.server.auth import Keys
from zh_retrieval.server.health import Health
from zh_retrieval.server.metrics import Metrics
from zh_retrieval.server.models import Models, Side
from zh_retrieval.server.problems import RequestError, problem
from zh_retrieval.server.served import Served
from zh_retrieval.server.settings import Settings
from zh_retrieval.usage import Usage

Computed = tuple[np.ndarray, Usage]
"""float32 rows, and what they took."""


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a started server, and the work that every dialect gives it."""

    settings: Settings
    models: Models
    keys: Keys
    health: Health
    metrics: Metrics

    @property
    def flying(self) -> int:
        """Return how many requests are under way."""
        return self.metrics.under_way

    async def embed(
        self, served: Served[Encoder], texts: list[str], side: Side, instruction: str | None = None, *, cut: bool = True
    ) -> Computed:
        """Return float32 (N, D); with `cut=False` a text that is too long is an InputError that names its index."""
        self.check_count(len(texts), "texts")
        handle = served.handle if cut else served.strict
        if side == "query":
            work = handle.aencode_queries(texts, instruction=instruction)
        else:
            work = handle.aencode_documents(texts)
        return await self._compute(served, len(texts), work)

    async def score(
        self, served: Served[Reranker], pairs: list[Pair], instruction: str | None = None, *, cut: bool = True
    ) -> Computed:
        """Return raw float32 (N,)."""
        self.check_count(len(pairs), "pairs")
        handle = served.handle if cut else served.strict
        return await self._compute(served, len(pairs), handle.ascore(pairs, instruction=instruction))

    async def chunks(self, served: Served[Encoder], document: str, spans: list[Span]) -> Computed:
        """Return float32 (S, D), the spans seen in their document."""
        self.check_count(len(spans), "spans")
        return await self._compute(served, len(spans), served.handle.aencode_chunks(document, spans))

    async def _compute(self, served: Served[Any], count: int, work: Any) -> Computed:
        try:
            with usage.counted() as used:
                rows = np.asarray(await work, dtype="<f4")
            if not np.isfinite(rows).all() or (rows.ndim == 2 and not rows.any(axis=1).all()):
                raise CheckpointError(f"{served.name} gave results that are NaN, infinite or zero.")
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if problem(error, 1).ours:
                self.health.suspect(served, error)
            raise
        self.metrics.computed(served.name, count, used)
        return rows, used

    def check_count(self, count: int, what: str) -> None:
        """Raise RequestError if a request has more texts than the settings allow."""
        if count > self.settings.max_texts:
            raise RequestError(
                400, f"The request has {count} {what}, more than max_texts={self.settings.max_texts} of this server. "
                "Split it, or start the server with a higher --max-texts.", "too_many_inputs",
            )  # fmt: skip
