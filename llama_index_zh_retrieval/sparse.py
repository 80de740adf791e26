"""Models of sparse vectors as LlamaIndex sparse embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from pydantic import ConfigDict, Field
from typing_extensions import Self, Unpack

from zh_retrieval.frameworks.conversion import as_each
from zh_retrieval.frameworks.fields import Settings, without_defaults
from zh_retrieval.frameworks.keywords import SparseKwargs
from zh_retrieval.frameworks.sparse import SparseFields

Batch = tuple[list[list[int]], list[list[float]]]


class SparseEmbeddingKwargs(SparseKwargs, total=False):
    """The fields of a model of sparse vectors, and those of LlamaIndex."""

    embed_batch_size: int
    num_workers: int | None


class ModelScopeSparseEmbedding(SparseFields, BaseSparseEmbedding):
    """A model of sparse vectors: `ModelScopeSparseEmbedding("bm25-zh")`, or "bge-m3", with its weights for tokens.

    `QdrantVectorStore(enable_hybrid=True, sparse_doc_fn=sparse.sparse_doc_fn, sparse_query_fn=sparse.sparse_query_fn)`
    takes its methods; "bm25-zh" needs `sparse_config=models.SparseVectorParams(modifier=models.Modifier.IDF)` there.
    Every option of `zh_retrieval.load_sparse_encoder` is a field. Pickles and dictionaries hold settings only.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    embed_batch_size: int = Field(default=2048, gt=0, le=2048, description="Texts handed over at once.")

    if TYPE_CHECKING:

        def __init__(self, model: str | None = None, **fields: Unpack[SparseEmbeddingKwargs]) -> None: ...

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "ModelScopeSparseEmbedding"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return what `to_dict` was made of; options at their defaults may be said by the environment here."""
        return cls(**without_defaults(data))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings without the key, and for `path=` a hash of the weights."""
        return Settings(**self.model_dump(), **self.weights())

    def sparse_doc_fn(self, texts: list[str]) -> Batch:
        """Return the indices and the values of documents, as `QdrantVectorStore(sparse_doc_fn=...)` wants them."""
        vectors = self._documents(texts)
        return [vector.indices.tolist() for vector in vectors], [vector.values.tolist() for vector in vectors]

    def sparse_query_fn(self, texts: list[str]) -> Batch:
        """Return the indices and the values of queries, as `QdrantVectorStore(sparse_query_fn=...)` wants them."""
        vectors = self._queries(texts)
        return [vector.indices.tolist() for vector in vectors], [vector.values.tolist() for vector in vectors]

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return self._queries([query])[0].as_dict()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return (await self._aqueries([query]))[0].as_dict()

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._documents([text])[0].as_dict()

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._adocuments([text]))[0].as_dict()

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [vector.as_dict() for vector in self._documents(texts)]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return await as_each(await self._adocuments(texts), lambda vector: vector.as_dict())
