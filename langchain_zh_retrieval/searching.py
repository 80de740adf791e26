"""One side of a hybrid search: a vector store or a retriever, asked for documents and their scores."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_zh_retrieval.bm25 import BM25_SCORE, BM25Retriever, Filter
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.frameworks.sides import Found

_FILTERS = frozenset({"filter", "filters", "where", "where_document", "pre_filter", "post_filter", "expr"})
_PLAIN = (str, int, float, bool)


@dataclass(frozen=True)
class Side:
    """One side.

    Attributes:
        name: "dense" or "lexical".
        asked: Who answers.
        score_key: Where a retriever that is not ours puts its score.
    """

    name: str
    asked: VectorStore | BaseRetriever
    score_key: str

    def ask(
        self, query: str, depth: int, search: Mapping[str, Any], keep: Filter | None, config: RunnableConfig
    ) -> list[Found[Document]]:
        """Return what was found, as it was answered.

        Raises:
            ConfigError: The store has no scores.
            InputError: The retriever has none.
        """
        if isinstance(self.asked, VectorStore):
            with self._having_scores():
                pairs = self.asked.similarity_search_with_score(query, k=depth, **search)
            return _found(pairs, keep)
        return self._read(self.asked.invoke(query, config, **self._own(depth, keep)), keep)

    async def aask(
        self, query: str, depth: int, search: Mapping[str, Any], keep: Filter | None, config: RunnableConfig
    ) -> list[Found[Document]]:
        """Return what `ask` returns."""
        if isinstance(self.asked, VectorStore):
            with self._having_scores():
                pairs = await self.asked.asimilarity_search_with_score(query, k=depth, **search)
            return _found(pairs, keep)
        return self._read(await self.asked.ainvoke(query, config, **self._own(depth, keep)), keep)

    def _own(self, depth: int, keep: Filter | None) -> dict[str, Any]:
        return {"k": depth, "filter": keep} if isinstance(self.asked, BM25Retriever) else {}

    def _read(self, documents: Iterable[Document], keep: Filter | None) -> list[Found[Document]]:
        key = BM25_SCORE if isinstance(self.asked, BM25Retriever) else self.score_key
        pairs: list[tuple[Document, Any]] = []
        for place, document in enumerate(documents):
            score = document.metadata.get(key)
            if isinstance(score, bool) or not isinstance(score, numbers.Real):
                raise InputError(
                    f"Document {place} of the {self.name} retriever has metadata[{key!r}] {repr(score)[:60]}, expected "
                    "a score as a number. Give a retriever that puts its scores there, and score_key= their name."
                )
            pairs.append((document, score))
        return _found(pairs, keep)

    @contextmanager
    def _having_scores(self) -> Iterator[None]:
        try:
            yield
        except NotImplementedError as error:
            raise ConfigError(
                f"{type(self.asked).__name__} has no similarity_search_with_score, so that its results cannot be "
                "weighed. Use a vector store that has scores, or dense= a retriever that puts them into metadata."
            ) from error


def filter_for_both(search: Mapping[str, Any], store: VectorStore) -> Filter | None:
    """Return the filter of a vector store's arguments as a function of a document; None if they hold none.

    Raises:
        ConfigError: Only the store can read it: what is left out on one side alone would come back by the other.
    """
    filters = {name: value for name, value in search.items() if name in _FILTERS and value is not None}
    if not filters:
        return None
    only = filters.get("filter") if len(filters) == 1 else None
    if isinstance(only, dict) and all(isinstance(v, _PLAIN) and not n.startswith("$") for n, v in only.items()):
        return lambda document: all(document.metadata.get(n) == v for n, v in only.items())
    if callable(only) and isinstance(store, InMemoryVectorStore):
        return cast("Filter", only)
    raise ConfigError(
        f"search_kwargs has {' and '.join(sorted(filters))}, which only {type(store).__name__} reads. "
        "Say the same for the lexical side: lexical_filter=lambda document: document.metadata[...] == ..."
    )


def filtered_too(search: Mapping[str, Any], store: VectorStore, keep: Filter) -> dict[str, Any]:
    """Return a vector store's arguments beside the filter of the lexical side.

    LangChain's store in memory takes functions only, and the same ones. `filter=None` says of another store that it
    needs none, as it holds nothing else.

    Raises:
        ConfigError: The store has no filter: what the lexical side leaves out would come back by the store.
    """
    if isinstance(store, InMemoryVectorStore):
        return {**search, "filter": filter_for_both(search, store) or keep}
    if not _FILTERS & search.keys():
        raise ConfigError(
            f"lexical_filter= holds for the lexical side alone: what it leaves out would come back by "
            f"{type(store).__name__}. Say the same for the store, or None if it needs none: "
            "search_kwargs={'filter': ...}."
        )
    return dict(search)


def _found(pairs: Iterable[tuple[Document, Any]], keep: Filter | None) -> list[Found[Document]]:
    return [
        Found(document, document.id, document.page_content, float(score))
        for document, score in pairs
        if keep is None or keep(document)
    ]
