"""Embedding models as LangChain `Embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings
from typing_extensions import Unpack

from zh_retrieval.frameworks.calls import EncoderFields
from zh_retrieval.frameworks.identity import cache_key
from zh_retrieval.frameworks.keywords import EncoderKwargs
from zh_retrieval.options import OPTIONS


class ModelScopeEmbeddings(EncoderFields, Embeddings):
    """An embedding model of zh-retrieval: `ModelScopeEmbeddings("bge-base-zh")`.

    Queries get the model's own prompt, documents theirs; vectors have length 1. Every option of
    `zh_retrieval.load_encoder` is a field. Weights load on first use and are shared within the process; they are freed
    with the last adapter that has them, so make one for the process, not one a request.
    """

    if TYPE_CHECKING:

        def __init__(self, model: str | None = None, **fields: Unpack[EncoderKwargs]) -> None: ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text, in order; [] for []."""
        return self._documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query, prompted as the model wants it."""
        return self._query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return what `embed_documents` returns; the event loop goes on meanwhile."""
        return await self._adocuments(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Return what `embed_query` returns; concurrent calls share forward passes."""
        return await self._aquery(text)

    def embed_chunks(self, document: str, spans: Sequence[tuple[int, int]]) -> list[list[float]]:
        """Return one vector for each span of characters, from one pass over the document (late chunking)."""
        return self._chunks(document, spans)

    @property
    def model(self) -> str:
        """Return what LangChain's pages give as the namespace of a cache: the name, for a hub's model as it is.

        Where an option changes vectors, and for `path=` and `base_url=`, it is `cache_namespace`: a fine-tuned copy
        must not get the vectors that a cache holds of the base model. `model_name` is the name, whatever is loaded.
        """
        changed = [name for name, option in OPTIONS.items() if option.changes_results or name == "base_url"]
        plain = all(getattr(self, name) == OPTIONS[name].default for name in changed)
        return self.spec.name if plain and self.query_instruction is None else self.cache_namespace

    @property
    def cache_namespace(self) -> str:
        """Return a short key of everything that changes a vector, for `CacheBackedEmbeddings(namespace=...)`.

        It is safe in file names. Queries and documents need a store each (`query_embedding_cache=another_store`): with
        one for both, a query gets the vector of a document of the same text. It tells apart models, recipes, options,
        instructions, revisions and, for `path=`, files; before the first download no revision is known yet.
        """
        return cache_key(self.spec.name, self.identity() | {"query_instruction": self.query_instruction})
