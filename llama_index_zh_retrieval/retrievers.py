"""Dense and lexical search fused, as a LlamaIndex retriever."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from typing_extensions import Unpack

from llama_index_zh_retrieval.bm25 import BM25Retriever, RetrieverKwargs
from llama_index_zh_retrieval.nodes import with_scores
from zh_retrieval import checks
from zh_retrieval.aside import aside
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.frameworks.sides import Found, fuse_sides, side_by_side

logger = logging.getLogger(__name__)


class HybridRetriever(BaseRetriever):
    """The sum of dense and BM25 z-scores.

    `HybridRetriever(index.as_retriever(similarity_top_k=100), BM25Retriever.from_nodes(nodes), similarity_top_k=10)`.
    The score of a node is the sum. Whether a side's scores are similarities or distances is seen by its answer, which
    has the best first: distances rise along it. A node that both found is known by its id, else by its text. Filters
    of an index's retriever hold for a `BM25Retriever` without filters too.
    """

    def __init__(
        self,
        dense: BaseRetriever,
        lexical: BaseRetriever,
        *,
        similarity_top_k: int = 10,
        weight: float = 0.5,
        depth: int = 100,
        keep_side_scores: bool = False,
        **kwargs: Unpack[RetrieverKwargs],
    ) -> None:
        """Take both sides.

        Args:
            dense: A retriever with scores that returns `depth` nodes: `index.as_retriever(similarity_top_k=100)`.
            lexical: A BM25Retriever, of which `depth` nodes are taken whatever it returns alone, or another one.
            similarity_top_k: How many nodes to return.
            weight: The dense side's share of the sum, 0 to 1.
            depth: How many results of each side are taken.
            keep_side_scores: Put "hybrid_score", "dense_score" and "lexical_score" (None where a side did not find it)
                into the metadata of copied nodes. A node's hash, by which QueryFusionRetriever knows it, then depends
                on the question.
            kwargs: What every retriever of LlamaIndex takes.

        Raises:
            ConfigError: A side is no retriever, or a number makes no sense.
        """
        super().__init__(**kwargs)
        self.similarity_top_k = checks.whole_number("similarity_top_k", similarity_top_k)
        self.depth = checks.whole_number("depth", depth)
        self.weight = checks.share("weight", weight)
        self.keep_side_scores = checks.switch("keep_side_scores", keep_side_scores)
        for side, given in (("dense", dense), ("lexical", lexical)):
            _check_side(side, given, self.depth)
        self._dense, self._lexical = dense, lexical

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"dense": self._dense, "lexical": self._lexical}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._fused(self._dense.retrieve(query_bundle), self._asked().retrieve(_text(query_bundle)))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        lexical = self._asked().aretrieve(_text(query_bundle))
        found, matches = await side_by_side(self._dense.aretrieve(query_bundle), lexical)
        return await aside(self._fused, found, matches)

    def _asked(self) -> BaseRetriever:
        """Return the lexical side as it is asked: no filter may hold for one side alone."""
        if not isinstance(self._lexical, BM25Retriever):
            return self._lexical
        filters = _filters_of_both(self._dense, self._lexical)
        return self._lexical.limited(self.depth, filters)

    def _fused(self, dense: Sequence[NodeWithScore], lexical: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        fused = fuse_sides(
            _found(dense, "dense"), _found(lexical, "lexical"), weight=self.weight, depth=self.depth,
            k=self.similarity_top_k,
        )  # fmt: skip
        found = []
        for each in fused:
            scores: dict[str, Any] = {}
            if self.keep_side_scores:
                scores = {"hybrid_score": each.score, "dense_score": each.dense, "lexical_score": each.lexical}
            node = with_scores(each.item.node, scores) if scores else each.item.node
            found.append(NodeWithScore(node=node, score=each.score))
        return found


def _check_side(name: str, side: BaseRetriever, depth: int) -> None:
    """Raise ConfigError unless it is a retriever, and warn if it returns less than is weighed."""
    if not isinstance(side, BaseRetriever):
        raise ConfigError(
            f"{name} is {type(side).__name__}, expected a retriever: "
            "HybridRetriever(index.as_retriever(similarity_top_k=100), BM25Retriever.from_nodes(nodes))."
        )
    few = getattr(side, "similarity_top_k", None)
    if isinstance(few, int) and few < depth and not isinstance(side, BM25Retriever):
        logger.warning(
            "The %s retriever returns %d results, but HybridRetriever weighs the first %d of it: "
            "set similarity_top_k=%d.",
            name, few, depth, depth,
        )  # fmt: skip


def _filters_of_both(dense: BaseRetriever, lexical: BM25Retriever) -> MetadataFilters | None:
    """Return the lexical side's filters, or those of an index's retriever.

    Raises:
        ConfigError: One side alone is filtered: what it leaves out would come back by the other.
    """
    found: MetadataFilters | None = getattr(dense, "_filters", None)
    own = lexical.filters if lexical.filters and lexical.filters.filters else None
    if own and hasattr(dense, "_filters") and not (found and found.filters):
        raise ConfigError(
            "The filters of the BM25Retriever hold for the lexical side alone: what they leave out would come back by "
            "the dense side. Give them to index.as_retriever(filters=...), which holds for both."
        )
    if getattr(dense, "_doc_ids", None):
        raise ConfigError(
            "doc_ids of the dense retriever hold for the dense side alone. Say it by metadata, which holds for both: "
            "index.as_retriever(filters=...)."
        )
    return own or found


def _text(query_bundle: QueryBundle) -> QueryBundle:
    """Return the question alone: the vector, or the texts to embed in its place, are the dense side's."""
    return QueryBundle(query_bundle.query_str)


def _found(nodes: Sequence[NodeWithScore], side: str) -> list[Found[NodeWithScore]]:
    found = []
    for place, each in enumerate(nodes):
        if each.score is None:
            raise InputError(
                f"Node {place} of the {side} retriever has no score, so that it cannot be weighed. Give a retriever "
                "that scores its nodes."
            )
        text = each.node.get_content(metadata_mode=MetadataMode.NONE)
        found.append(Found(each, each.node.node_id, text, float(each.score)))
    return found
