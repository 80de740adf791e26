"""What a started server consists of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from zh_retrieval import usage
from zh_retrieval.base import Both, Encoder, HybridEncoder, Pair, Reranker, Span, SparseEncoder
from zh_retrieval.errors import CheckpointError, ConfigError, OverloadedError
from zh_retrieval.server.auth import Keys
from zh_retrieval.server.http.body import Bodies
from zh_retrieval.server.http.problems import RequestError, problem
from zh_retrieval.server.models.ids import Models, Side
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.models.tokenizing import Tokenizing
from zh_retrieval.server.operation import logs
from zh_retrieval.server.operation.health import Health
from zh_retrieval.server.operation.metrics import Metrics
from zh_retrieval.server.settings import Settings
from zh_retrieval.sparse.vector import SparseVector
from zh_retrieval.usage import Usage

ResultT = TypeVar("ResultT")
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
    bodies: Bodies
    tokenizing: Tokenizing = field(default_factory=Tokenizing)

    @property
    def under_way(self) -> int:
        """Return how many requests are under way."""
        return self.metrics.under_way

    def close(self) -> None:
        """Free the thread that reads."""
        self.bodies.close()

    async def embed(
        self,
        served: ServedModel[Encoder],
        texts: list[str],
        side: Side,
        instruction: str | None = None,
        *,
        cut: bool = True,
    ) -> Computed:
        """Return float32 (N, D); with `cut=False` a text that is too long is an InputError that names its index."""
        handle = served.handle if cut else served.strict
        if side == "query":
            work = handle.aencode_queries(texts, instruction=instruction)
        else:
            work = handle.aencode_documents(texts)
        return await self._rows(served, len(texts), work)

    async def score(
        self, served: ServedModel[Reranker], pairs: list[Pair], instruction: str | None = None, *, cut: bool = True
    ) -> Computed:
        """Return raw float32 (N,)."""
        handle = served.handle if cut else served.strict
        return await self._rows(served, len(pairs), handle.ascore(pairs, instruction=instruction))

    async def chunks(self, served: ServedModel[Encoder], document: str, spans: list[Span]) -> Computed:
        """Return float32 (S, D), the spans seen in their document."""
        return await self._rows(served, len(spans), served.handle.aencode_chunks(document, spans))

    async def embed_sparse(
        self, served: ServedModel[Any], texts: list[str], side: Side, *, cut: bool = True
    ) -> tuple[list[SparseVector], Usage]:
        """Return a sparse vector of each text; `cut` as in `embed`."""
        handle = self._sparse(served, cut)
        work = handle.aencode_queries(texts) if side == "query" else handle.aencode_documents(texts)
        return await self._compute(served, len(texts), work, _are_sound)

    async def embed_both(self, served: ServedModel[Any], texts: list[str], side: Side) -> tuple[Both, Usage]:
        """Return dense and sparse vectors of one forward pass of each text.

        Raises:
            ConfigError: The model gives no dense ones.
        """
        handle = self._sparse(served, cut=True)
        if not isinstance(handle, HybridEncoder):
            raise ConfigError(f"{served.name} gives no dense vectors. Leave dense out.")
        work = handle.aencode_queries_both(texts) if side == "query" else handle.aencode_documents_both(texts)
        return await self._compute(served, len(texts), work, lambda both: _are_rows(both[0]) and _are_sound(both[1]))

    def _sparse(self, served: ServedModel[Any], cut: bool) -> SparseEncoder:
        handle: SparseEncoder | None = served.sparse if cut else served.strict_sparse
        assert handle is not None  # `Models.sparse` found it
        return handle

    async def _rows(self, served: ServedModel[Any], count: int, work: Coroutine[Any, Any, np.ndarray]) -> Computed:
        rows, used = await self._compute(served, count, work, _are_rows)
        return np.asarray(rows, dtype="<f4"), used

    async def _compute(
        self, served: ServedModel[Any], count: int, work: Coroutine[Any, Any, ResultT], sound: Callable[[ResultT], bool]
    ) -> tuple[ResultT, Usage]:
        begin = time.perf_counter()
        try:
            with usage.counted() as used:
                results = await served.watch.run(work)
            if not sound(results):
                raise CheckpointError(f"{served.name} gave results that are NaN, infinite or zero.")
        except (asyncio.CancelledError, RequestError):
            raise
        except OverloadedError:
            raise RequestError(429, self._too_much(served), "rate_limit_exceeded") from None
        except Exception as error:
            if problem(error, 1).ours:
                self.health.suspect(served, error)
            raise
        self.health.trust(served)
        self.metrics.computed(served.name, count, used, time.perf_counter() - begin)
        logs.note(served.name, count, used.tokens, used.cut, used.queued)
        return results, used

    def _too_much(self, served: ServedModel[Any]) -> str:
        pace = f", of which it computes about {served.watch.rate:.0f} a second" if served.watch.rate else ""
        return (
            f"Too much waits for {served.name}: {getattr(served.handle, 'waiting', 0)} tokens{pace}. Ask again later, "
            "or start the server with a higher --max-queue-tokens or --max-wait."
        )


def _are_rows(results: np.ndarray) -> bool:
    rows = np.asarray(results)
    return bool(np.isfinite(rows).all() and (rows.ndim != 2 or rows.any(axis=1).all()))


def _are_sound(vectors: list[SparseVector]) -> bool:
    return all(bool(np.isfinite(vector.values).all()) for vector in vectors)
