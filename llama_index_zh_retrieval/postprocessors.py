"""Reranking models as LlamaIndex node postprocessors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import ConfigDict, Field

from zh_retrieval import InputError, Reranker, load_reranker
from zh_retrieval.frameworks import Lazy, LoadFields, check_items, lazy
from zh_retrieval.ranking import Normalize, normalize_scores, select_ranked

_dispatcher = get_dispatcher(__name__)
_RETRIEVAL_SCORE = "retrieval_score"


class _ModelScopeReranker(LoadFields, BaseNodePostprocessor):
    """What both rerankers do; they differ in default model and normalisation."""

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), populate_by_name=True, arbitrary_types_allowed=True
    )

    top_n: int | None = Field(default=None, gt=0, description="Nodes to keep; None keeps all.")
    score_threshold: float | None = Field(
        default=None, description="Nodes with a lower score, after `normalize`, are dropped."
    )
    keep_retrieval_score: bool = Field(
        default=False, description="Keep the retriever's score in metadata['retrieval_score'] of a copied node."
    )

    _reranker: Lazy[Reranker] = lazy()

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        super().__init__(model, **fields)
        self.check("reranking")

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (pairs, kept):
            if pairs:
                scores = self._load().score(pairs, show_progress=self.show_progress)
                kept.extend(self._chosen(nodes, normalize_scores(scores, self._normalize())))
        return kept

    @_dispatcher.span  # LlamaIndex puts a span around the sync method only
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (pairs, kept):
            if pairs:
                reranker = await self._reranker.aget(self._open)
                scores = await reranker.ascore(pairs, show_progress=self.show_progress)
                kept.extend(self._chosen(nodes, normalize_scores(scores, self._normalize())))
        return kept

    @contextmanager
    def _events(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> Iterator[tuple[list[tuple[str, str]], list[NodeWithScore]]]:
        """Yield the pairs to score and the list to fill; every start event gets its end event, errors included."""
        if not isinstance(query_bundle, QueryBundle):
            raise InputError(
                f"query_bundle is {type(query_bundle).__name__}, but a reranker needs the query: "
                "pass a QueryBundle, or query_str."
            )
        check_items(nodes, NodeWithScore, "nodes")
        query = query_bundle.query_str
        kept: list[NodeWithScore] = []
        top_n = self.top_n or len(nodes)
        _dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=self.model_name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield [(query, node.node.get_content(metadata_mode=MetadataMode.EMBED)) for node in nodes], kept
                event.on_end(payload={EventPayload.NODES: kept})
        finally:
            _dispatcher.event(ReRankEndEvent(nodes=kept))

    def _chosen(self, nodes: list[NodeWithScore], scores: list[float]) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=self._node(nodes[ranked.index]), score=ranked.score)
            for ranked in select_ranked(scores, self.top_n, self.score_threshold)
        ]

    def _node(self, scored: NodeWithScore) -> Any:
        if not self.keep_retrieval_score:
            return scored.node
        node = scored.node.model_copy(deep=True)
        node.metadata[_RETRIEVAL_SCORE] = scored.score
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
            keys = getattr(node, name)
            if _RETRIEVAL_SCORE not in keys:
                keys.append(_RETRIEVAL_SCORE)
        return node

    def _normalize(self) -> Normalize:
        raise AssertionError("each reranker says its own")

    def warmup(self) -> None:
        """Load the weights and compute once, so that the first user does not wait for either."""
        self._load().warmup()

    def unload(self) -> None:
        """Give the weights back; the next call loads them again."""
        self._reranker.drop()

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

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "BGEReranker"

    def _normalize(self) -> Normalize:
        return self.normalize


class RankingGPTReranker(_ModelScopeReranker):
    """Query likelihood with RankingGPT-qwen-7b, or with any causal language model given as `path`.

    Scores are mean log-likelihoods of the query (natural log, at most 0); `normalize="exp"` maps them to 0..1.
    """

    model_name: str = Field(default="rankinggpt-qwen-7b", alias="model")
    normalize: Literal["none", "exp"] = Field(default="none", description="What is done to a mean log-likelihood.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "RankingGPTReranker"

    def _normalize(self) -> Normalize:
        return self.normalize
