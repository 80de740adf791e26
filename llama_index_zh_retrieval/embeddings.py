"""Embedding models as LlamaIndex embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, Field

from zh_retrieval import ConfigError, Encoder, load_encoder
from zh_retrieval.frameworks import Lazy, LoadFields, as_lists, lazy


class ModelScopeEmbedding(LoadFields, BaseEmbedding):
    """An embedding model of zh-retrieval: `Settings.embed_model = ModelScopeEmbedding("bge-base-zh")`.

    Queries get the model's own prompt, documents theirs; vectors have length 1. Every option of
    `zh_retrieval.load_encoder` is a field. Weights load on first use and are shared within the process; pickles and
    dictionaries hold settings only.
    """

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), populate_by_name=True, arbitrary_types_allowed=True
    )

    query_instruction: str | None = Field(
        default=None, description='Replaces the model\'s own query instruction; "" leaves it out.'
    )
    embed_batch_size: int = Field(
        default=2048, gt=0, le=2048, description="Texts handed over at once: many, so that sorting by length pays."
    )

    _encoder: Lazy[Encoder] = lazy()

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        """Check the options; load nothing yet.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model is a reranker.
            ConfigError: An option does not fit the model, or `embeddings_cache` is given for a model that prompts
                queries and documents differently.
            pydantic.ValidationError: An argument is unknown or has the wrong type.
        """
        super().__init__(model, **fields)
        self.check("embedding")
        same = self.spec.format_query("", self.query_instruction) == self.spec.format_document("")
        if self.embeddings_cache is not None and not same:
            raise ConfigError(
                f"embeddings_cache is keyed by the bare text, but {self.spec.name} gives a query and a document with "
                "the same text different vectors. Leave it out; IngestionPipeline's own cache is safe."
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "ModelScopeEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._load().encode_queries([query], instruction=self.query_instruction)[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        encoder = await self._encoder.aget(self._open)
        vector: list[float] = (await encoder.aencode_queries([query], instruction=self.query_instruction))[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._load().encode_documents(texts, show_progress=self.show_progress).tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        encoder = await self._encoder.aget(self._open)
        return await as_lists(await encoder.aencode_documents(texts, show_progress=self.show_progress))

    def chunk_vectors(self, document: str, spans: Sequence[tuple[int, int]]) -> list[list[float]]:
        """Return one vector for each span of characters, from one pass over the document (late chunking)."""
        vectors: list[list[float]] = self._load().encode_chunks(document, spans).tolist()
        return vectors

    @property
    def dimension(self) -> int:
        """Return the length of a vector; loads the model."""
        return self._load().dimension

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
