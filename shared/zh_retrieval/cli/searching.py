"""Retrieval over passages three ways: by LangChain, by LlamaIndex, and by the core alone; dense and BM25 together."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from zh_retrieval.sparse.fusion import DEPTH

FRAMEWORKS = ("langchain", "llama-index", "core")
_ALL = 2 * DEPTH  # that two sides find at most
_SIDES = ("dense", "lexical")


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found: its score, and those of the sides; None where a side did not find it."""

    id: str
    score: float
    dense: float | None = None
    lexical: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question gets, best first.

    Attributes:
        hits: By both sides, reranked where a reranker is asked for.
        dense: Ids that the embedding model alone would give.
        lexical: Ids that BM25 alone would give.
    """

    hits: list[Hit]
    dense: list[str]
    lexical: list[str]

    @staticmethod
    def of(found: Iterable[Hit], hits: list[Hit]) -> Answer:
        """Return an answer with these hits, out of all that both sides found."""
        every = list(found)
        dense = [(hit.dense, hit.id) for hit in every if hit.dense is not None]
        lexical = [(hit.lexical, hit.id) for hit in every if hit.lexical is not None]
        return Answer(hits, *([id for _, id in sorted(side, key=lambda pair: -pair[0])] for side in (dense, lexical)))


Search = Callable[[str], Answer]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to be found; `embedded` is what the model sees."""

    id: str
    title: str
    text: str

    @property
    def embedded(self) -> str:
        """Return the text after its title."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Stages:
    """The models of a search: options are those of `load_encoder` and `load_reranker`."""

    model: str
    options: dict[str, Any]
    reranker: str | None
    reranker_options: dict[str, Any]
    depth: int


def build(framework: str, passages: list[Passage], stages: Stages) -> Search:
    """Return a search over an index of the passages; building embeds all of them.

    Raises:
        MissingExtraError: The framework is not installed.
    """
    builders = {"langchain": _langchain, "llama-index": _llama_index, "core": _core}
    return builders[framework](passages, stages)


def _langchain(passages: list[Passage], stages: Stages) -> Search:
    adapters = importlib.import_module("langchain_zh_retrieval")  # first: it says what to install
    from langchain_core.documents import Document

    embeddings = adapters.ModelScopeEmbeddings(stages.model, **stages.options)
    documents = [Document(page_content=passage.embedded, id=passage.id) for passage in passages]
    retriever = adapters.HybridRetriever.from_documents(documents, embeddings, k=_ALL)
    reranker = adapters.ModelScopeReranker(stages.reranker, **stages.reranker_options) if stages.reranker else None

    def search(question: str) -> Answer:
        found = retriever.invoke(question)
        every = [
            Hit(each.id, each.metadata["hybrid_score"], *(each.metadata[f"{side}_score"] for side in _SIDES))
            for each in found
        ]
        if reranker is None:
            return Answer.of(every, every[: stages.depth])
        ranked = reranker.compress_documents(found[: stages.depth], question)
        return Answer.of(every, [Hit(each.id, each.metadata["relevance_score"]) for each in ranked])

    return search


def _llama_index(passages: list[Passage], stages: Stages) -> Search:
    adapters = importlib.import_module("llama_index_zh_retrieval")  # first: it says what to install
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(id_=passage.id, text=passage.embedded) for passage in passages]
    index = VectorStoreIndex(nodes, embed_model=adapters.ModelScopeEmbedding(stages.model, **stages.options))
    retriever = adapters.HybridRetriever(
        index.as_retriever(similarity_top_k=DEPTH), adapters.BM25Retriever.from_nodes(nodes),
        similarity_top_k=_ALL, keep_side_scores=True,
    )  # fmt: skip
    reranker = adapters.ModelScopeReranker(stages.reranker, **stages.reranker_options) if stages.reranker else None

    def search(question: str) -> Answer:
        found = retriever.retrieve(question)
        every = [
            Hit(each.node.node_id, float(each.score), *(each.node.metadata[f"{side}_score"] for side in _SIDES))
            for each in found
        ]
        if reranker is None:
            return Answer.of(every, every[: stages.depth])
        ranked = reranker.postprocess_nodes(found[: stages.depth], query_str=question)
        return Answer.of(every, [Hit(each.node.node_id, float(each.score)) for each in ranked])

    return search


def _core(passages: list[Passage], stages: Stages) -> Search:
    import zh_retrieval
    from zh_retrieval.ranking import rank_scores
    from zh_retrieval.sparse.fusion import fuse
    from zh_retrieval.sparse.index import BM25Index

    encoder = zh_retrieval.load_encoder(stages.model, **stages.options)
    texts = [passage.embedded for passage in passages]
    vectors, index = encoder.encode_documents(texts), BM25Index(texts)
    reranker = zh_retrieval.load_reranker(stages.reranker, **stages.reranker_options) if stages.reranker else None

    def search(question: str) -> Answer:
        scores = (vectors @ encoder.encode_queries([question])[0]).tolist()
        dense = [(entry.index, entry.score) for entry in rank_scores(scores, DEPTH)]
        found = fuse(dense, index.search(question, DEPTH))
        every = [Hit(passages[each.id].id, each.score, each.dense, each.lexical) for each in found]
        if reranker is None:
            return Answer.of(every, every[: stages.depth])
        top = [each.id for each in found[: stages.depth]]
        ranked = reranker.rank(question, [texts[place] for place in top])
        return Answer.of(every, [Hit(passages[top[entry.index]].id, entry.score) for entry in ranked])

    return search
