"""BM25 over nodes as a LlamaIndex retriever that reads Chinese."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, IndexNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from typing_extensions import Self, Unpack

from llama_index_zh_retrieval.nodes import copy_of
from zh_retrieval import checks
from zh_retrieval.aside import aside
from zh_retrieval.frameworks.lexical import Shelf
from zh_retrieval.frameworks.shelf_files import Record, load_records, save_records
from zh_retrieval.validation import check_items


class RetrieverKwargs(TypedDict, total=False):
    """What LlamaIndex's retrievers take besides their own settings."""

    callback_manager: CallbackManager | None
    object_map: dict[str, Any] | None
    objects: list[IndexNode] | None
    verbose: bool


class BM25Retriever(BaseRetriever):
    """BM25 over nodes: `BM25Retriever.from_nodes(nodes, similarity_top_k=10)`.

    It counts what `zh_retrieval.terms` finds in the text that an embedding would see: pairs of Chinese characters,
    words and numbers of other scripts. What comes back are copies of the nodes that share a term with the question,
    best first, ties in their order. The index is made anew at the first question after nodes were added or deleted:
    about a second for 20,000; millions belong into a store with sparse vectors (`ModelScopeSparseEmbedding`).
    """

    def __init__(
        self,
        nodes: Sequence[BaseNode] = (),
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        k1: float = 1.2,
        b: float = 0.75,
        **kwargs: Unpack[RetrieverKwargs],
    ) -> None:
        """Take the nodes.

        Args:
            nodes: What to search.
            similarity_top_k: How many nodes to return.
            filters: Which of them may be returned.
            k1: How fast a term's repetitions stop to count.
            b: How much a text's length counts, 0 to 1.
            kwargs: What every retriever of LlamaIndex takes.

        Raises:
            InputError: They are not nodes with valid text.
            ConfigError: A number makes no sense.
        """
        super().__init__(**kwargs)
        self.similarity_top_k = checks.whole_number("similarity_top_k", similarity_top_k)
        self.filters = filters
        self._k1, self._b = k1, b
        self._shelf: Shelf[BaseNode] = Shelf(k1=k1, b=b)
        self.add_nodes(nodes)

    if TYPE_CHECKING:

        @classmethod
        def from_nodes(
            cls,
            nodes: Sequence[BaseNode],
            *,
            similarity_top_k: int = 10,
            filters: MetadataFilters | None = None,
            k1: float = 1.2,
            b: float = 0.75,
            **kwargs: Unpack[RetrieverKwargs],
        ) -> Self: ...

    else:

        @classmethod
        def from_nodes(cls, nodes: Sequence[BaseNode], **kwargs: Any) -> Self:
            """Return a retriever of these nodes; the other arguments are those of the class."""
            return cls(nodes, **kwargs)

    @property
    def nodes(self) -> list[BaseNode]:
        """Return copies of the nodes, in their order."""
        return list(map(copy_of, self._shelf.items))

    def add_nodes(self, nodes: Sequence[BaseNode]) -> None:
        """Add copies of the nodes, without their vectors; one whose id is there takes that one's place.

        Raises:
            InputError: They are not nodes with valid text; nothing is added.
        """
        taken = []
        for node in check_items(nodes, BaseNode, "nodes"):  # type: ignore[type-abstract]
            kept = copy_of(node)
            kept.embedding = None
            taken.append((node.node_id, kept, kept.get_content(metadata_mode=MetadataMode.EMBED)))
        self._shelf = self._shelf.with_items(taken)

    def delete_nodes(self, node_ids: Sequence[str]) -> None:
        """Forget the nodes of these ids; ids that are not there are no error."""
        self._shelf = self._shelf.without(node_ids)

    def delete_ref_doc(self, ref_doc_id: str) -> None:
        """Forget the nodes of this document."""
        self.delete_nodes([node.node_id for node in self._shelf.items if node.ref_doc_id == ref_doc_id])

    def persist(self, persist_dir: str | Path) -> None:
        """Write nodes and settings into the folder, for `from_persist_dir` in any process.

        Raises:
            InputError: Metadata holds what JSON cannot give back as it was.
            OSError: It cannot be written; what was there before stays.
        """
        settings = {"similarity_top_k": self.similarity_top_k, "k1": self._k1, "b": self._b}
        save_records(persist_dir, "llama-index", settings, map(_record, self._shelf.items))

    @classmethod
    def from_persist_dir(cls, persist_dir: str | Path, **kwargs: Any) -> Self:
        """Return what `persist` wrote; `kwargs` replace its settings.

        Raises:
            CheckpointError: The folder holds nothing of the kind.
        """
        settings, records = load_records(persist_dir, "llama-index")
        return cls([json_to_doc(record) for record in records], **{**settings, **kwargs})

    def limited(self, similarity_top_k: int, filters: MetadataFilters | None = None) -> Self:
        """Return a retriever over the same nodes that returns so many, of those that pass the filters."""
        made = copy.copy(self)
        made.similarity_top_k = checks.whole_number("similarity_top_k", similarity_top_k)
        made.filters = filters or self.filters
        return made

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._shelf.search(query_bundle.query_str, self.similarity_top_k, self._keep())
        return [NodeWithScore(node=copy_of(node), score=score) for node, score in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await aside(self._retrieve, query_bundle)

    def _keep(self) -> Callable[[BaseNode], bool] | None:
        if self.filters is None or not self.filters.filters:
            return None
        metadata: dict[str, dict[str, Any]] = {}
        passes = build_metadata_filter_fn(metadata.__getitem__, self.filters)

        def keep(node: BaseNode) -> bool:
            metadata[node.node_id] = node.metadata
            return passes(node.node_id)

        return keep


def _record(node: BaseNode) -> Record:
    return Record(node.node_id, node.metadata, json.loads(json.dumps(doc_to_json(node), default=str)))
