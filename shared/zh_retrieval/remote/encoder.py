"""Texts to vectors, computed by a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zh_retrieval.base import Encoder, Span
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Dialect, ModelInfo, Side, prompted
from zh_retrieval.remote.model import RemoteModel
from zh_retrieval.remote.parts import cut
from zh_retrieval.validation import as_tuple, check_text, check_texts


class RemoteEncoder(RemoteModel, Encoder):
    """An embedding model on a server."""

    def __init__(
        self,
        spec: ModelSpec,
        client: Client,
        dialect: Dialect,
        served: ModelInfo,
        overflow: Overflow,
        dimensions: int | None,
    ) -> None:
        super().__init__(spec, client, dialect, served, overflow)
        width = served.dimension or spec.dimension
        if width is None:
            raise ConfigError(f"Neither the server nor the recipe of {spec.name} says how long a vector is.")
        self._width = width
        self._kept = dimensions or width

    @property
    def dimension(self) -> int:
        return self._kept

    def _own_options(self) -> dict[str, Any]:
        return {"dimensions": self._kept} if self._kept != self._width else {}

    def encode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        taken = self._queries(texts, instruction)
        return self._run(lambda: self._vectors(taken, "query", instruction, show_progress))

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        taken = check_texts(texts)
        return self._run(lambda: self._vectors(taken, "document", None, show_progress))

    async def aencode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        taken = self._queries(texts, instruction)
        return await self._arun(lambda: self._vectors(taken, "query", instruction, show_progress))

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        taken = check_texts(texts)
        return await self._arun(lambda: self._vectors(taken, "document", None, show_progress))

    def encode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        taken = self._spans(document, spans)
        return self._run(lambda: self._chunks(document, taken))

    async def aencode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        taken = self._spans(document, spans)
        return await self._arun(lambda: self._chunks(document, taken))

    def warmup(self) -> None:
        """Open the connection, and let the server compute one text."""
        self.encode_documents(["暖机"])

    def _queries(self, texts: Sequence[str], instruction: str | None) -> tuple[str, ...]:
        self.spec.format_query("", instruction)
        return check_texts(texts)

    def _spans(self, document: str, spans: Sequence[Span]) -> tuple[Span, ...]:
        if self.spec.pooling != "mean":
            raise ConfigError(f"{self.spec.name} pools by {self.spec.pooling!r}: late chunking needs mean pooling.")
        check_text(document, "document")
        taken = as_tuple(spans, "spans", "(start, end)")
        for index, span in enumerate(taken):
            if not (isinstance(span, Sequence) and len(span) == 2 and 0 <= span[0] < span[1] <= len(document)):
                raise InputError(f"spans[{index}] is {span!r}, expected a part of {len(document)} characters.")
        return tuple((int(low), int(high)) for low, high in taken)

    async def _vectors(
        self, texts: tuple[str, ...], side: Side, instruction: str | None, show_progress: bool
    ) -> np.ndarray:
        async def ask(low: int, high: int) -> Answer:
            answer = await self._dialect.embed(texts[low:high], side, instruction)
            return Answer(self._shortened(answer.rows), answer.cut)

        out = np.empty((len(texts), self._kept), dtype=np.float32)
        [prompt] = prompted(self.spec, [""], side, instruction)
        ranges = cut(texts, self.served, lambda text: (text,), prompt)
        return await self._gathered(ranges, ask, out, "texts", show_progress)

    async def _chunks(self, document: str, spans: tuple[Span, ...]) -> np.ndarray:
        if not spans:
            return np.empty((0, self._kept), dtype=np.float32)
        return self._shortened((await self._dialect.chunks(document, spans)).rows)

    def _shortened(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of the recipe's length, or of fewer numbers if `dimensions` says so."""
        if rows.shape[1] != self._width:
            raise ConfigError(
                f"{self._client.address.url} gives vectors of {rows.shape[1]} numbers; {self.spec.name} has "
                f"{self._width}. It serves another model."
            )
        if self._kept == self._width:
            return rows
        part = rows[:, : self._kept]
        shortened: np.ndarray = part / np.linalg.norm(part, axis=1, keepdims=True)
        return shortened
