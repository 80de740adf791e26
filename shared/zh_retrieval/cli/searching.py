"""Retrieval over passages three ways: a LangChain chain, a LlamaIndex query engine, and the core alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Hits = list[tuple[str, float]]
Search = Callable[[str], Hits]

FRAMEWORKS = ("langchain", "llama-index", "core")


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
    from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(adapters.ModelScopeEmbeddings(stages.model, **stages.options))
    store.add_documents([Document(page_content=passage.embedded, id=passage.id) for passage in passages])

    def retrieve(question: str) -> list[Document]:
        found = store.similarity_search_with_score(question, k=stages.depth)
        return [document.model_copy(update={"metadata": {"relevance_score": score}}) for document, score in found]

    chain: Any = RunnableParallel(query=RunnablePassthrough(), documents=RunnableLambda(retrieve))
    if stages.reranker:
        chain = chain | adapters.ModelScopeReranker(stages.reranker, **stages.reranker_options).as_runnable()
    else:
        chain = chain | (lambda found: found["documents"])
    return lambda question: [
        (document.id, float(document.metadata["relevance_score"])) for document in chain.invoke(question)
    ]


def _llama_index(passages: list[Passage], stages: Stages) -> Search:
    adapters = importlib.import_module("llama_index_zh_retrieval")  # first: it says what to install
    from llama_index.core import VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers.no_text import NoText
    from llama_index.core.schema import TextNode

    nodes = [TextNode(id_=passage.id, text=passage.embedded) for passage in passages]
    index = VectorStoreIndex(nodes, embed_model=adapters.ModelScopeEmbedding(stages.model, **stages.options))
    rerankers = []
    if stages.reranker:
        rerankers = [adapters.ModelScopeReranker(stages.reranker, **stages.reranker_options)]
    engine = RetrieverQueryEngine(
        index.as_retriever(similarity_top_k=stages.depth),
        response_synthesizer=NoText(llm=MockLLM()),  # retrieval only: no language model is asked
        node_postprocessors=rerankers,
    )
    return lambda question: [
        (found.node.node_id, float(found.score or 0.0)) for found in engine.query(question).source_nodes
    ]


def _core(passages: list[Passage], stages: Stages) -> Search:
    import zh_retrieval
    from zh_retrieval.ranking import rank_scores

    encoder = zh_retrieval.load_encoder(stages.model, **stages.options)
    vectors = encoder.encode_documents([passage.embedded for passage in passages])
    reranker = zh_retrieval.load_reranker(stages.reranker, **stages.reranker_options) if stages.reranker else None

    def search(question: str) -> Hits:
        scores = (vectors @ encoder.encode_queries([question])[0]).tolist()
        found = rank_scores(scores, stages.depth)
        if reranker is None:
            return [(passages[entry.index].id, entry.score) for entry in found]
        candidates = [passages[entry.index] for entry in found]
        ranked = reranker.rank(question, [passage.embedded for passage in candidates])
        return [(candidates[entry.index].id, entry.score) for entry in ranked]

    return search
