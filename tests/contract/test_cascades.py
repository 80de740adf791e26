"""A cheap reranker over many and a dear one over few, by what both frameworks have for it."""

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever as LlamaRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker

QUERY = "怎么泡茶？"
TEXTS = ["绿茶要用八十度的水冲泡", "猫喜欢睡觉", "火车票可以退票", "红茶用沸水", "米饭要煮二十分钟", "雨伞在门口"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    cpu = {"device": "cpu", "dtype": "float32"}
    return (
        {**cpu, "path": tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))},
        {**cpu, "path": tiny_causal_lm(tmp_path_factory.mktemp("causal"))},
    )


@pytest.fixture(scope="module")
def expected(options):
    """Return what both steps give by hand: the first keeps five, the second reads two or three of them."""
    with (
        zr.load_reranker("bge-reranker-large", **options[0]) as cheap,
        zr.load_reranker("rankinggpt", **options[1]) as dear,
    ):
        first = [(f"d{entry.index}", entry.score) for entry in cheap.rank(QUERY, TEXTS, top_n=5)]

        def second(depth):
            seen = [TEXTS[int(name[1:])] for name, _ in first[:depth]]
            return [(first[entry.index][0], entry.score) for entry in dear.rank(QUERY, seen)]

        return {"few": second(3), "tail": [*second(2), *first[2:]]}


class All(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=text, id=f"d{number}") for number, text in enumerate(TEXTS)]


class AllNodes(LlamaRetriever):
    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=TextNode(id_=f"d{n}", text=text), score=0.5) for n, text in enumerate(TEXTS)]


def of_documents(documents):
    return [(document.id, document.metadata["relevance_score"]) for document in documents]


def steps(room, options, tail):
    cheap = room.BGEReranker(**options[0], top_n=5 if tail else 3)
    return [cheap, room.RankingGPTReranker(**options[1], depth=2 if tail else None)]


@pytest.mark.parametrize("kind", ["few", "tail"])
async def test_langchains_pipeline_is_the_cascade(options, expected, kind):
    made = ContextualCompressionRetriever(
        base_compressor=DocumentCompressorPipeline(transformers=steps(lc, options, kind == "tail")),
        base_retriever=All(),
    )
    assert of_documents(made.invoke(QUERY)) == expected[kind]
    assert of_documents(await made.ainvoke(QUERY)) == expected[kind]


def test_runnables_are_the_cascade_where_langchain_core_is_alone(options, expected):
    cheap, dear = steps(lc, options, tail=True)
    chain = (
        {"query": RunnablePassthrough(), "documents": All()}
        | RunnablePassthrough.assign(documents=cheap.as_runnable())
        | dear.as_runnable()
    )
    assert of_documents(chain.invoke(QUERY)) == expected["tail"]


@pytest.mark.parametrize("kind", ["few", "tail"])
async def test_llama_indexs_list_of_postprocessors_is_the_cascade(options, expected, kind):
    made = RetrieverQueryEngine(
        AllNodes(),
        get_response_synthesizer(MockLLM()),
        node_postprocessors=steps(li, options, kind == "tail"),
    )
    found = [made.retrieve(QueryBundle(QUERY)), await made.aretrieve(QueryBundle(QUERY))]
    for nodes in found:
        assert [(scored.node.node_id, scored.score) for scored in nodes] == expected[kind]


def test_what_is_not_read_costs_nothing_and_stands_in_no_threshold(options):
    documents = All().invoke(QUERY)
    documents[-1].page_content = "no model reads \ud800"
    dear = lc.BGEReranker(**options[0], depth=5)
    kept = dear.compress_documents(documents, QUERY)
    assert kept[-1] == documents[-1]
    assert len(kept) == 6
    assert lc.BGEReranker(**options[0], depth=5, top_n=4).compress_documents(documents, QUERY) == kept[:4]
    least = kept[1].metadata["relevance_score"]
    strict = lc.BGEReranker(**options[0], depth=5, score_threshold=least)
    assert strict.compress_documents(documents, QUERY) == kept[:2]
    with pytest.raises(zr.ConfigError, match="depth"):
        lc.BGEReranker(**options[0], depth=0)
