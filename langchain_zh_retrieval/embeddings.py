"""Embedding models as LangChain `Embeddings`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field

from zh_retrieval import Encoder, load_encoder
from zh_retrieval.frameworks import Lazy, LoadFields, as_lists, lazy


class ModelScopeEmbeddings(LoadFields, Embeddings):
    """An embedding model of zh-retrieval: `ModelScopeEmbeddings("bge-base-zh")`.

    Queries get the model's own prompt, documents theirs; vectors have length 1. Every option of
    `zh_retrieval.load_encoder` is a field. Weights load on first use and are shared within the process.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    query_instruction: str | None = Field(
        default=None, description='Replaces the model\'s own query instruction; "" leaves it out.'
    )

    _encoder: Lazy[Encoder] = lazy()

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        """Check the options; load nothing yet.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model is a reranker.
            ConfigError: An option does not fit the model.
            pydantic.ValidationError: An argument is unknown or has the wrong type.
        """
        super().__init__(model, **fields)
        self.check("embedding")
        self.spec.format_query("", self.query_instruction)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text, in order; [] for []."""
        vectors: list[list[float]] = self._load().encode_documents(texts, show_progress=self.show_progress).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query, prompted as the model wants it."""
        vector: list[float] = self._load().encode_queries([text], instruction=self.query_instruction)[0].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return what `embed_documents` returns; the event loop goes on meanwhile."""
        encoder = await self._encoder.aget(self._open)
        return await as_lists(await encoder.aencode_documents(texts, show_progress=self.show_progress))

    async def aembed_query(self, text: str) -> list[float]:
        """Return what `embed_query` returns; concurrent calls share forward passes."""
        encoder = await self._encoder.aget(self._open)
        vector: list[float] = (await encoder.aencode_queries([text], instruction=self.query_instruction))[0].tolist()
        return vector

    def embed_chunks(self, document: str, spans: Sequence[tuple[int, int]]) -> list[list[float]]:
        """Return one vector for each span of characters, from one pass over the document (late chunking)."""
        vectors: list[list[float]] = self._load().encode_chunks(document, spans).tolist()
        return vectors

    @property
    def dimension(self) -> int:
        """Return the length of a vector; loads the model."""
        return self._load().dimension

    @property
    def cache_namespace(self) -> str:
        """Return a key of everything that changes a vector, for `CacheBackedEmbeddings(namespace=...)`."""
        return json.dumps(self.identity() | {"query_instruction": self.query_instruction}, default=str, sort_keys=True)

    def warmup(self) -> None:
        """Load the weights and compute once, so that the first user does not wait for either."""
        self._load().warmup()

    def unload(self) -> None:
        """Give the weights back; the next call loads them again."""
        self._encoder.drop()

    def _load(self) -> Encoder:
        return self._encoder.get(self._open)

    def _open(self) -> Encoder:
        return load_encoder(self.model_name, **self.load_options(), show_progress=self.show_progress)
