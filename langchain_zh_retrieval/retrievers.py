"""Dense and lexical search fused, as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import Field
from typing_extensions import Self, Unpack

from langchain_zh_retrieval.bm25 import BM25_SCORE, BM25Retriever, Filter
from langchain_zh_retrieval.checked import CheckedRetriever, with_ids, with_scores
from langchain_zh_retrieval.exact import ExactVectorStore
from langchain_zh_retrieval.searching import Side, filter_for_both, filtered_too
from zh_retrieval import checks
from zh_retrieval.aside import aside
from zh_retrieval.errors import ConfigError
from zh_retrieval.frameworks.sides import Found, fuse_sides, side_by_side
from zh_retrieval.validation import check_text


class HybridKwargs(TypedDict, total=False):
    """The fields of a `HybridRetriever` besides its sides."""

    k: int
    weight: float
    depth: int
    search_kwargs: dict[str, Any]
    lexical_filter: Filter | None
    score_key: str
    tags: list[str] | None
    metadata: dict[str, Any] | None


class HybridRetriever(CheckedRetriever):
    """The sum of dense and BM25 z-scores: `HybridRetriever.from_documents(documents, ModelScopeEmbeddings(...))`.

    Or over a vector store that has scores, `HybridRetriever(vectorstore=store, lexical=BM25Retriever(documents))`;
    `lexical` may be a store too, such as Qdrant in sparse mode. Or over two retrievers, `dense=` in the store's place,
    that put scores into `metadata[score_key]`. Whether a score is a similarity or a distance is seen by the answer,
    which has the best first: distances rise along it.

    What comes back are copies with `metadata["hybrid_score"]`, and `["dense_score"]` and `["lexical_score"]` as each
    side gave them, None where it did not find the document among its first `depth`. A document that both found is known
    by its id, else by its text. `retriever.invoke(question, k=3)` asks for fewer; a filter goes to the store in
    `search_kwargs`, and as a function to a lexical retriever in `lexical_filter`, of the class or of one call. A filter
    that is a dictionary of plain values is read for both; one that only the lexical side has is a ConfigError, but for
    a store in memory, which takes the function too.
    """

    vectorstore: VectorStore | None = Field(default=None, description="Where dense search happens.")
    dense: BaseRetriever | None = Field(default=None, description="Or the retriever that does it, with scores.")
    lexical: BaseRetriever | VectorStore = Field(
        description="A BM25Retriever, another retriever with scores, or a store of sparse vectors."
    )
    k: int = Field(default=10, gt=0, description="How many documents to return.")
    weight: float = Field(default=0.5, ge=0, le=1, description="The dense side's share of the sum.")
    depth: int = Field(default=100, gt=0, description="How many results of each side are taken.")
    search_kwargs: dict[str, Any] = Field(default_factory=dict, description="What the vector store gets with a query.")
    lexical_filter: Filter | None = Field(default=None, description="Which documents the lexical side may return.")
    score_key: str = Field(default="score", description="Where the metadata of another retriever holds its score.")

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            lexical: BaseRetriever | VectorStore,
            vectorstore: VectorStore | None = None,
            dense: BaseRetriever | None = None,
            **fields: Unpack[HybridKwargs],
        ) -> None: ...

    else:

        def __init__(self, **fields: Any) -> None:
            """Take the sides.

            Raises:
                ConfigError: Neither or both of `vectorstore` and `dense` are given, or a field is unknown or wrong.
            """
            super().__init__(**fields)
            if (self.vectorstore is None) == (self.dense is None):
                raise ConfigError(
                    "HybridRetriever needs one of vectorstore= and dense=: HybridRetriever(vectorstore=store, "
                    "lexical=BM25Retriever(documents))."
                )

    @classmethod
    def from_documents(
        cls, documents: Sequence[Document], embeddings: Embeddings, **fields: Unpack[HybridKwargs]
    ) -> Self:
        """Return a retriever over these documents, embedded now and kept in memory, searched exactly.

        Raises:
            InputError: They are not documents with valid text.
            ConfigError: A field is unknown or wrong.
        """
        made = cls(vectorstore=ExactVectorStore(embeddings), lexical=BM25Retriever(), **fields)
        made.add_documents(documents)
        return made

    @classmethod
    async def afrom_documents(
        cls, documents: Sequence[Document], embeddings: Embeddings, **fields: Unpack[HybridKwargs]
    ) -> Self:
        """Return what `from_documents` returns; the event loop goes on meanwhile."""
        made = cls(vectorstore=ExactVectorStore(embeddings), lexical=BM25Retriever(), **fields)
        await made.aadd_documents(documents)
        return made

    def add_documents(self, documents: Sequence[Document]) -> list[str]:
        """Add the documents to both sides and return their ids; one whose id is there takes that one's place.

        Raises:
            ConfigError: A side is not a vector store or a BM25Retriever.
        """
        store, lexical = self._changeable()
        named = with_ids(documents)
        if named:
            store.add_documents(named, ids=[str(each.id) for each in named])
        return lexical.add_documents(named)

    async def aadd_documents(self, documents: Sequence[Document]) -> list[str]:
        """Do what `add_documents` does; the event loop goes on meanwhile."""
        store, lexical = self._changeable()
        named = with_ids(documents)
        if named:
            await store.aadd_documents(named, ids=[str(each.id) for each in named])
        return await run_in_executor(None, lexical.add_documents, named)

    def delete(self, ids: Sequence[str]) -> None:
        """Forget the documents of these ids on both sides. Raises as `add_documents`."""
        store, lexical = self._changeable()
        store.delete(list(ids))
        lexical.delete(ids)

    async def adelete(self, ids: Sequence[str]) -> None:
        """Do what `delete` does."""
        store, lexical = self._changeable()
        await store.adelete(list(ids))
        await run_in_executor(None, lexical.delete, ids)

    def _changeable(self) -> tuple[VectorStore, BM25Retriever]:
        if self.vectorstore is None or not isinstance(self.lexical, BM25Retriever):
            raise ConfigError(
                "Documents are added to and deleted from a vectorstore= and a BM25Retriever, but a side of this "
                "HybridRetriever is another retriever. Do it where each side has its documents."
            )
        return self.vectorstore, self.lexical

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None,
        search_kwargs: dict[str, Any] | None = None, lexical_filter: Filter | None = None,
    ) -> list[Document]:  # fmt: skip
        check_text(query, "query")
        dense, lexical = self._sides()
        search, keep = self._asked(search_kwargs, lexical_filter)
        config = RunnableConfig(callbacks=run_manager.get_child())
        found = dense.ask(query, self.depth, search, None, config)
        return self._fused(found, lexical.ask(query, self.depth, search, keep, config), k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None,
        search_kwargs: dict[str, Any] | None = None, lexical_filter: Filter | None = None,
    ) -> list[Document]:  # fmt: skip
        check_text(query, "query")
        dense, lexical = self._sides()
        search, keep = self._asked(search_kwargs, lexical_filter)
        config = RunnableConfig(callbacks=run_manager.get_child())
        found, matches = await side_by_side(
            dense.aask(query, self.depth, search, None, config), lexical.aask(query, self.depth, search, keep, config)
        )
        return await aside(self._fused, found, matches, k)

    def _sides(self) -> tuple[Side, Side]:
        dense = self.dense if self.vectorstore is None else self.vectorstore
        assert dense is not None
        return Side("dense", dense, self.score_key), Side("lexical", self.lexical, self.score_key)

    def _asked(
        self, search_kwargs: dict[str, Any] | None, lexical_filter: Filter | None
    ) -> tuple[dict[str, Any], Filter | None]:
        """Return what vector stores get, and the lexical side's filter: no filter may hold for one side alone."""
        search = {**self.search_kwargs, **(search_kwargs or {})}
        if search and self.vectorstore is None:
            raise ConfigError("search_kwargs are for a vectorstore=. Give them to the dense retriever itself.")
        keep = lexical_filter or self.lexical_filter
        if self.vectorstore is None:
            return search, keep
        if keep is not None:
            return filtered_too(search, self.vectorstore, keep), keep
        if isinstance(self.lexical, VectorStore):
            return search, None
        keep = filter_for_both(search, self.vectorstore)
        return search if keep is None else filtered_too(search, self.vectorstore, keep), keep

    def _fused(self, dense: list[Found[Document]], lexical: list[Found[Document]], k: int | None) -> list[Document]:
        count = self.k if k is None else checks.whole_number("k", k)
        return [
            with_scores(
                each.item,
                {"hybrid_score": each.score, "dense_score": each.dense, "lexical_score": each.lexical},
                without=(BM25_SCORE,),
            )
            for each in fuse_sides(dense, lexical, weight=self.weight, depth=self.depth, k=count)
        ]
