"""Reranking models as LlamaIndex node postprocessors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import ConfigDict, Field
from typing_extensions import Self, Unpack

from zh_retrieval import InputError
from zh_retrieval.frameworks.calls import Kept, RerankerFields
from zh_retrieval.frameworks.conversion import copied
from zh_retrieval.frameworks.fields import Settings, without_defaults
from zh_retrieval.frameworks.keywords import RerankerKwargs
from zh_retrieval.ranking import Normalize
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_LIKELIHOOD
from zh_retrieval.recipes.spec import Scoring
from zh_retrieval.validation import check_items


class PostprocessorKwargs(RerankerKwargs, total=False):
    """The fields of a reranking model, and those of a postprocessor."""

    keep_retrieval_score: bool
    callback_manager: CallbackManager


_dispatcher = get_dispatcher(__name__)
_RETRIEVAL_SCORE = "retrieval_score"


class _ModelScopeReranker(RerankerFields, BaseNodePostprocessor):
    """What all rerankers do; they differ in the models they take and in normalisation."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    keep_retrieval_score: bool = Field(
        default=False, description="Keep the retriever's score in metadata['retrieval_score'] of a copied node."
    )

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return what `to_dict` was made of; options at their defaults may be said by the environment here."""
        return super().from_dict(without_defaults(data), **kwargs)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings without the key, and for `path=` a hash of the weights: pipelines cache results by it."""
        return Settings(**super().to_dict(**kwargs), **self.weights())

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (query, taken, kept):
            if taken:
                kept.extend(self._copies(taken, self._ranked(query, _texts(taken))))
        return kept

    @_dispatcher.span  # LlamaIndex puts a span around the sync method only
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (query, taken, kept):
            if taken:
                kept.extend(self._copies(taken, await self._aranked(query, _texts(taken))))
        return kept

    @contextmanager
    def _events(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> Iterator[tuple[str, list[NodeWithScore], list[NodeWithScore]]]:
        """Yield the query, the nodes and the list to fill; every start event gets its end event, errors included."""
        if not isinstance(query_bundle, QueryBundle):
            raise InputError(
                f"query_bundle is {type(query_bundle).__name__}, but a reranker needs the query: "
                "pass a QueryBundle, or query_str."
            )
        taken = list(check_items(nodes, NodeWithScore, "nodes"))
        query = query_bundle.query_str
        kept: list[NodeWithScore] = []
        top_n = self.top_n or len(taken)
        _dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=taken, top_n=top_n, model_name=self.model_name))
        payload: dict[str, Any] = {
            EventPayload.NODES: taken,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield query, taken, kept
                event.on_end(payload={EventPayload.NODES: kept})
        finally:
            _dispatcher.event(ReRankEndEvent(nodes=kept))

    def _copies(self, nodes: list[NodeWithScore], kept: list[Kept]) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=self._node(nodes[index]), score=nodes[index].score if score is None else score)
            for index, score in kept
        ]

    def _node(self, scored: NodeWithScore) -> Any:
        """Return the node itself, or an independent copy that holds the retriever's score."""
        if not self.keep_retrieval_score:
            return scored.node
        node = scored.node.model_copy(update=copied(vars(scored.node)))
        node.metadata = copied(scored.node.metadata) | {_RETRIEVAL_SCORE: scored.score}
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
            keys = getattr(node, name)
            if _RETRIEVAL_SCORE not in keys:
                keys.append(_RETRIEVAL_SCORE)
        return node


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


class ModelScopeReranker(_ModelScopeReranker):
    """Any reranking model: `ModelScopeReranker("qwen3-reranker-0.6b", top_n=3, normalize="sigmoid")`.

    Scores are raw (see `spec.score_range`); `normalize` maps them to 0..1: "sigmoid" a logit or the margin of yes over
    no, "exp" a mean log-likelihood.
    """

    normalize: Normalize = Field(default="none", description="What is done to a raw score.")

    if TYPE_CHECKING:

        def __init__(
            self, model: str | None = None, *, normalize: Normalize = "none", **fields: Unpack[PostprocessorKwargs]
        ) -> None: ...

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "ModelScopeReranker"


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
            **fields: Unpack[PostprocessorKwargs],
        ) -> None: ...

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "BGEReranker"


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
            **fields: Unpack[PostprocessorKwargs],
        ) -> None: ...

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "RankingGPTReranker"
