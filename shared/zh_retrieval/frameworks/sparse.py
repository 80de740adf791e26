"""What the adapters of sparse models share: their settings and calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from zh_retrieval.base import Model, SparseEncoder
from zh_retrieval.frameworks.fields import LoadFields
from zh_retrieval.recipes.spec import Task
from zh_retrieval.sparse.options import sparse_options
from zh_retrieval.sparse.vector import SparseVector


class SparseFields(LoadFields):
    """The settings of a model of sparse vectors, and its calls."""

    k1: float | None = Field(default=None, description="BM25: how fast a term's repetitions stop to count; 1.2.")
    b: float | None = Field(default=None, description="BM25: how much a text's length counts, 0 to 1; 0.75.")
    average_length: float | None = Field(default=None, description="BM25: terms of a text on the average; 256.")

    _task: ClassVar[Task] = "sparse"
    _settings: ClassVar[tuple[str, ...]] = ("k1", "b", "average_length")

    def check_settings(self) -> None:
        """Raise UnknownModelError, WrongTaskError or ConfigError now rather than at the first call."""
        sparse_options(self.spec, {**self._given(), **self.load_options()})

    @property
    def needs_idf(self) -> bool:
        """Return True if the store multiplies by IDF (Qdrant: `modifier="idf"`); loads the model."""
        encoder: SparseEncoder = self._load()
        return encoder.needs_idf

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field after all checks; one that changes vectors takes effect at the next call."""
        super().__setattr__(name, value)
        if name in self._settings:
            self._lazy.drop()

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._settings}

    def _open(self) -> Model:
        from zh_retrieval.loading import load_sparse_encoder

        return load_sparse_encoder(
            self.model_name, **self._given(), **self.load_options(), show_progress=self.show_progress
        )

    def _queries(self, texts: Sequence[str]) -> list[SparseVector]:
        encoder: SparseEncoder = self._load()
        return encoder.encode_queries(texts)

    async def _aqueries(self, texts: Sequence[str]) -> list[SparseVector]:
        encoder: SparseEncoder = await self._aload()
        await asyncio.sleep(0)  # short texts are counted on the loop: many in a row must leave it turns
        return await encoder.aencode_queries(texts)

    def _documents(self, texts: Sequence[str]) -> list[SparseVector]:
        encoder: SparseEncoder = self._load()
        return encoder.encode_documents(texts, show_progress=self.show_progress)

    async def _adocuments(self, texts: Sequence[str]) -> list[SparseVector]:
        encoder: SparseEncoder = await self._aload()
        return await encoder.aencode_documents(texts, show_progress=self.show_progress)
