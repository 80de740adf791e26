"""Reranking models as LangChain document compressors and cross-encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field

from zh_retrieval import Reranker, load_reranker
from zh_retrieval.frameworks import Lazy, LoadFields, check_items, lazy
from zh_retrieval.ranking import Normalize, normalize_scores, select_ranked


class _ModelScopeReranker(LoadFields, BaseDocumentCompressor, BaseCrossEncoder):
    """What both rerankers do; they differ in default model and normalisation."""

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), populate_by_name=True, arbitrary_types_allowed=True
    )

    top_n: int | None = Field(default=None, gt=0, description="Documents to keep; None keeps all.")
    score_threshold: float | None = Field(
        default=None, description="Documents with a lower score, after `normalize`, are dropped."
    )

    _reranker: Lazy[Reranker] = lazy()

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        super().__init__(model, **fields)
        self.check("reranking")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents, best first, ties in their order; [] for [].

        `metadata["relevance_score"]` of a copy is the score as a float, after `normalize`. The input is not changed.
        """
        check_items(documents, Document, "documents")
        if not documents:
            return []
        scores = self.score([(query, document.page_content) for document in documents])
        return self._chosen(documents, scores)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return what `compress_documents` returns; the event loop goes on meanwhile."""
        check_items(documents, Document, "documents")
        if not documents:
            return []
        scores = await self.ascore([(query, document.page_content) for document in documents])
        return self._chosen(documents, scores)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return the score of each (query, document), after `normalize`; [] for []."""
        return normalize_scores(self._load().score(text_pairs, show_progress=self.show_progress), self._normalize())

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return what `score` returns; the event loop goes on meanwhile."""
        reranker = await self._reranker.aget(self._open)
        return normalize_scores(await reranker.ascore(text_pairs, show_progress=self.show_progress), self._normalize())

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable from {"query": str, "documents": list of Document} to the compressed documents."""

        def compress(inputs: dict[str, Any]) -> list[Document]:
            return self.compress_documents(inputs["documents"], inputs["query"])

        async def acompress(inputs: dict[str, Any]) -> list[Document]:
            return await self.acompress_documents(inputs["documents"], inputs["query"])

        return RunnableLambda(compress, acompress, name=type(self).__name__)

    def warmup(self) -> None:
        """Load the weights and compute once, so that the first user does not wait for either."""
        self._load().warmup()

    def unload(self) -> None:
        """Give the weights back; the next call loads them again."""
        self._reranker.drop()

    def _normalize(self) -> Normalize:
        raise AssertionError("each reranker says its own")

    def _chosen(self, documents: Sequence[Document], scores: list[float]) -> list[Document]:
        return [
            documents[ranked.index].model_copy(
                update={"metadata": copy.deepcopy(documents[ranked.index].metadata) | {"relevance_score": ranked.score}}
            )
            for ranked in select_ranked(scores, self.top_n, self.score_threshold)
        ]

    def _load(self) -> Reranker:
        return self._reranker.get(self._open)

    def _open(self) -> Reranker:
        return load_reranker(self.model_name, **self.load_options(), show_progress=self.show_progress)


class BGEReranker(_ModelScopeReranker):
    """The cross-encoder bge-reranker-large.

    Scores are raw logits (unbounded; see `spec.score_range`); `normalize="sigmoid"` maps them to 0..1.
    """

    model_name: str = Field(default="bge-reranker-large", alias="model")
    normalize: Literal["none", "sigmoid"] = Field(default="none", description="What is done to a raw logit.")

    def _normalize(self) -> Normalize:
        return self.normalize


class RankingGPTReranker(_ModelScopeReranker):
    """Query likelihood with RankingGPT-qwen-7b, or with any causal language model given as `path`.

    Scores are mean log-likelihoods of the query (natural log, at most 0); `normalize="exp"` maps them to 0..1.
    """

    model_name: str = Field(default="rankinggpt-qwen-7b", alias="model")
    normalize: Literal["none", "exp"] = Field(default="none", description="What is done to a mean log-likelihood.")

    def _normalize(self) -> Normalize:
        return self.normalize
