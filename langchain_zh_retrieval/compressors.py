"""Reranking models as LangChain document compressors and cross-encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field

from zh_retrieval.frameworks import RerankerFields
from zh_retrieval.ranking import Normalize
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_LIKELIHOOD
from zh_retrieval.recipes.spec import Scoring
from zh_retrieval.validation import check_items


class _ModelScopeReranker(RerankerFields, BaseDocumentCompressor, BaseCrossEncoder):
    """What all rerankers do; they differ in the models they take and in normalisation."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

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
        return self._scores(text_pairs)

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return what `score` returns; the event loop goes on meanwhile."""
        return await self._ascores(text_pairs)

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable from {"query": str, "documents": list of Document} to the compressed documents."""

        def compress(inputs: dict[str, Any]) -> list[Document]:
            return self.compress_documents(inputs["documents"], inputs["query"])

        async def acompress(inputs: dict[str, Any]) -> list[Document]:
            return await self.acompress_documents(inputs["documents"], inputs["query"])

        return RunnableLambda(compress, acompress, name=type(self).__name__)

    def _chosen(self, documents: Sequence[Document], scores: list[float]) -> list[Document]:
        return [
            documents[ranked.index].model_copy(
                update={"metadata": copy.deepcopy(documents[ranked.index].metadata) | {"relevance_score": ranked.score}}
            )
            for ranked in self._select(scores)
        ]


class ModelScopeReranker(_ModelScopeReranker):
    """Any reranking model: `ModelScopeReranker("qwen3-reranker-0.6b", top_n=3, normalize="sigmoid")`.

    Scores are raw (see `spec.score_range`); `normalize` maps them to 0..1: "sigmoid" a logit or the margin of yes over
    no, "exp" a mean log-likelihood.
    """

    normalize: Normalize = Field(default="none", description="What is done to a raw score.")


class BGEReranker(_ModelScopeReranker):
    """A cross-encoder: bge-reranker-large, or another of its family.

    Scores are raw logits (unbounded; see `spec.score_range`); `normalize="sigmoid"` maps them to 0..1.
    """

    model_name: str = Field(default=DEFAULT_CROSS_ENCODER, alias="model")
    normalize: Literal["none", "sigmoid"] = Field(default="none", description="What is done to a raw logit.")

    _scoring: ClassVar[Scoring | None] = "classification"


class RankingGPTReranker(_ModelScopeReranker):
    """Query likelihood with RankingGPT-qwen-7b or another of its family, or any causal language model as `path`.

    Scores are mean log-likelihoods of the query (natural log, at most 0); `normalize="exp"` maps them to 0..1.
    """

    model_name: str = Field(default=DEFAULT_LIKELIHOOD, alias="model")
    normalize: Literal["none", "exp"] = Field(default="none", description="What is done to a mean log-likelihood.")

    _scoring: ClassVar[Scoring | None] = "query-likelihood"
