"""Models of sparse vectors for the stores of LangChain that take them: Qdrant and Milvus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from langchain_zh_retrieval.sparse_values import SparseEmbedding, register_with_stores
from zh_retrieval.frameworks.conversion import as_each
from zh_retrieval.frameworks.keywords import SparseKwargs
from zh_retrieval.frameworks.sparse import SparseFields

if TYPE_CHECKING:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings

    class _Interfaces(SparseEmbeddings, BaseSparseEmbedding):  # type: ignore[misc]  # one result has both forms
        pass

else:

    class _Interfaces:
        """What `register_with_stores` makes true at run time, where the packages are installed."""


class ModelScopeSparseEmbeddings(SparseFields, _Interfaces):
    """A model of sparse vectors: `ModelScopeSparseEmbeddings("bm25-zh")`, or "bge-m3", with its weights for tokens.

    It is what `QdrantVectorStore(sparse_embedding=...)` and `Milvus(embedding_function=[dense, sparse])` take, and an
    instance of either package's own interface where that is installed. "bm25-zh" needs a store that multiplies by IDF:
    `QdrantVectorStore(..., sparse_vector_params={"modifier": models.Modifier.IDF})`. Milvus does so for its own BM25
    only, not for vectors that it is given: "bge-m3" is for it. Every option of `load_sparse_encoder` is a field.
    """

    if TYPE_CHECKING:

        def __init__(self, model: str | None = None, **fields: Unpack[SparseKwargs]) -> None: ...

    else:

        def __init__(self, model: str | None = None, **fields: Any) -> None:
            super().__init__(model, **fields)
            register_with_stores(type(self))

    def embed_documents(self, texts: list[str]) -> list[SparseEmbedding]:  # type: ignore[override]
        """Return one sparse vector for each text, in order; an empty one for a text without terms."""
        return [SparseEmbedding.of(vector) for vector in self._documents(texts)]

    def embed_query(self, text: str) -> SparseEmbedding:  # type: ignore[override]
        """Return the sparse vector of a query."""
        return SparseEmbedding.of(self._queries([text])[0])

    async def aembed_documents(self, texts: list[str]) -> list[SparseEmbedding]:  # type: ignore[override]
        """Return what `embed_documents` returns; the event loop goes on meanwhile."""
        return await as_each(await self._adocuments(texts), SparseEmbedding.of)

    async def aembed_query(self, text: str) -> SparseEmbedding:  # type: ignore[override]
        """Return what `embed_query` returns; the event loop goes on meanwhile."""
        return SparseEmbedding.of((await self._aqueries([text]))[0])
