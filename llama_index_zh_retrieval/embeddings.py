"""Embedding models as LlamaIndex embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from pydantic import ConfigDict, Field
from typing_extensions import Self, Unpack

from zh_retrieval import ConfigError
from zh_retrieval.frameworks.calls import EncoderFields
from zh_retrieval.frameworks.fields import Settings, without_defaults
from zh_retrieval.frameworks.keywords import EncoderKwargs


class EmbeddingKwargs(EncoderKwargs, total=False):
    """The fields of an embedding model, and those of LlamaIndex."""

    embed_batch_size: int
    callback_manager: CallbackManager
    num_workers: int | None
    embeddings_cache: Any
    rate_limiter: Any


class ModelScopeEmbedding(EncoderFields, BaseEmbedding):
    """An embedding model of zh-retrieval: `Settings.embed_model = ModelScopeEmbedding("bge-base-zh")`.

    Queries get the model's own prompt, documents theirs; vectors have length 1. Every option of
    `zh_retrieval.load_encoder` is a field. Weights load on first use and are shared within the process; they are freed
    with the last adapter that has them, so make one for the process, not one a request. Pickles and dictionaries hold
    settings only.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    embed_batch_size: int = Field(
        default=2048, gt=0, le=2048, description="Texts handed over at once: many, so that sorting by length pays."
    )

    if TYPE_CHECKING:

        def __init__(self, model: str | None = None, **fields: Unpack[EmbeddingKwargs]) -> None: ...

    def check_settings(self) -> None:
        """Raise what is wrong with the settings.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model is a reranker.
            ConfigError: An option does not fit the model, or `embeddings_cache` is given for a model that prompts
                queries and documents differently.
        """
        super().check_settings()
        same = self.spec.format_query("", self.query_instruction) == self.spec.format_document("")
        if self.embeddings_cache is not None and not same:
            raise ConfigError(
                f"embeddings_cache is keyed by the bare text, but {self.spec.name} gives a query and a document with "
                "the same text different vectors. Leave it out; IngestionPipeline's own cache is safe."
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return what `to_dict` was made of; options at their defaults may be said by the environment here."""
        return super().from_dict(without_defaults(data), **kwargs)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings without the key, and for `path=` a hash of the weights: pipelines cache results by it."""
        return Settings(**super().to_dict(**kwargs), **self.weights())

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "ModelScopeEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._aquery(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._documents([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._adocuments([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._documents(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._adocuments(texts)

    def chunk_vectors(self, document: str, spans: Sequence[tuple[int, int]]) -> list[list[float]]:
        """Return one vector for each span of characters, from one pass over the document (late chunking)."""
        return self._chunks(document, spans)
