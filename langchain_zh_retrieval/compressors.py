"""Reranking models as LangChain document compressors and cross-encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field
from typing_extensions import Unpack

from zh_retrieval import InputError
from zh_retrieval.frameworks.calls import Kept, RerankerFields
from zh_retrieval.frameworks.conversion import copied
from zh_retrieval.frameworks.keywords import RerankerKwargs
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

        `metadata["relevance_score"]` of a copy is the score as a float, after `normalize`. The input is not changed;
        metadata that cannot be copied (a lock, a file) is in the copies too. A query without scores: see `on_error`.
        `callbacks` are not called, as by LangChain's own compressors: a tracer sees `as_runnable()`.
        """
        taken = check_items(documents, Document, "documents")
        return self._copies(taken, self._ranked(query, [each.page_content for each in taken])) if taken else []

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return what `compress_documents` returns; the event loop goes on meanwhile."""
        taken = check_items(documents, Document, "documents")
        return self._copies(taken, await self._aranked(query, [each.page_content for each in taken])) if taken else []

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return the score of each (query, document), after `normalize`; [] for []."""
        return self._scores(text_pairs)

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return what `score` returns; the event loop goes on meanwhile."""
        return await self._ascores(text_pairs)

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable from {"query": str, "documents": list of Document} to the compressed documents."""

        def compress(inputs: dict[str, Any]) -> list[Document]:
            return self.compress_documents(*_documents_and_query(inputs))

        async def acompress(inputs: dict[str, Any]) -> list[Document]:
            return await self.acompress_documents(*_documents_and_query(inputs))

        return RunnableLambda(compress, acompress, name=type(self).__name__)

    def _copies(self, documents: Sequence[Document], kept: Sequence[Kept]) -> list[Document]:
        copies = []
        for index, score in kept:
            scored = {} if score is None else {"relevance_score": score}
            copies.append(documents[index].model_copy(update={"metadata": copied(documents[index].metadata) | scored}))
        return copies


def _documents_and_query(inputs: object) -> tuple[Sequence[Document], str]:
    if not isinstance(inputs, Mapping) or not {"query", "documents"} <= set(inputs):
        given = f"the keys {', '.join(map(repr, inputs))}" if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f'The reranker got {given}, expected {{"query": str, "documents": list of Document}}.')
    return inputs["documents"], inputs["query"]


class ModelScopeReranker(_ModelScopeReranker):
    """Any reranking model: `ModelScopeReranker("qwen3-reranker-0.6b", top_n=3, normalize="sigmoid")`.

    Scores are raw (see `spec.score_range`); `normalize` maps them to 0..1: "sigmoid" a logit or the margin of yes over
    no, "exp" a mean log-likelihood.
    """

    normalize: Normalize = Field(default="none", description="What is done to a raw score.")

    if TYPE_CHECKING:

        def __init__(
            self, model: str | None = None, *, normalize: Normalize = "none", **fields: Unpack[RerankerKwargs]
        ) -> None: ...


class BGEReranker(_ModelScopeReranker):
    """A cross-encoder: bge-reranker-large, or another of its family.

    Scores are raw logits (unbounded; see `spec.score_range`); `normalize="sigmoid"` maps them to 0..1.
    """

    model_name: str = Field(default=DEFAULT_CROSS_ENCODER, alias="model")
    normalize: Literal["none", "sigmoid"] = Field(default="none", description="What is done to a raw logit.")

    _scoring: ClassVar[Scoring | None] = "classification"

    if TYPE_CHECKING:

        def __init__(
            self,
            model: str | None = None,
            *,
            normalize: Literal["none", "sigmoid"] = "none",
            **fields: Unpack[RerankerKwargs],
        ) -> None: ...


class RankingGPTReranker(_ModelScopeReranker):
    """Query likelihood with RankingGPT-qwen-7b or another of its family, or any causal language model as `path`.

    Scores are mean log-likelihoods of the query (natural log, at most 0); `normalize="exp"` maps them to 0..1.
    """

    model_name: str = Field(default=DEFAULT_LIKELIHOOD, alias="model")
    normalize: Literal["none", "exp"] = Field(default="none", description="What is done to a mean log-likelihood.")

    _scoring: ClassVar[Scoring | None] = "query-likelihood"

    if TYPE_CHECKING:

        def __init__(
            self,
            model: str | None = None,
            *,
            normalize: Literal["none", "exp"] = "none",
            **fields: Unpack[RerankerKwargs],
        ) -> None: ...
