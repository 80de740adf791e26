"""Chains of LangChain and LlamaIndex, measured as systems."""

import asyncio
import time

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever as LangChainRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.retrievers import BaseRetriever as LlamaIndexRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from pydantic import Field

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.retrievers import Retrieved, aevaluate, evaluate

DATA = tea.dataset()
THINGS = tea.THINGS
BY_TEXT = {text: name for name, text in DATA.queries.items()}


def ids(question):
    """Return what every chain here finds: a wrong passage, then two right ones."""
    number = int(BY_TEXT[question][1:])
    return [f"d{(number + 1) % 10}-0", f"d{number}-0", f"d{number}-3"]


EXPECTED = evaluate_systems(DATA, [Written("w", {q: ids(text) for q, text in DATA.queries.items()})]).results[0]


class LangChain(LangChainRetriever):
    fails: tuple[str, ...] = ()
    busy: list[int] = Field(default_factory=lambda: [0, 0])

    def _get_relevant_documents(self, query, *, run_manager):
        raise AssertionError("the async way is there")

    async def _aget_relevant_documents(self, query, *, run_manager):
        self.busy[0] += 1
        self.busy[1] = max(self.busy)
        await asyncio.sleep(0.002)
        self.busy[0] -= 1
        if BY_TEXT[query] in self.fails:
            raise ValueError("the database is away")
        return [Document(DATA.corpus[name].text, metadata={"source": name}) for name in ids(query)]


class LlamaIndex(LlamaIndexRetriever):
    def _retrieve(self, query_bundle):
        nodes = []
        for name in ids(query_bundle.query_str):
            text = DATA.corpus[name].text
            for part in (text[:10], text[10:]):  # two chunks of a passage count as one
                node = TextNode(text=part, relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)})
                nodes.append(NodeWithScore(node=node, score=0.5))
        return nodes


class Engine(CustomQueryEngine):
    def custom_query(self, query_str):
        nodes = [NodeWithScore(node=TextNode(text=DATA.corpus[name].joined())) for name in ids(query_str)]
        return Response("答案", source_nodes=nodes)


@pytest.mark.parametrize("chain", [LangChain(), LlamaIndex(), Engine()], ids=lambda chain: type(chain).__name__)
def test_a_chain_gives_the_numbers_of_its_rankings(chain):
    (result,) = evaluate(chain, DATA).results
    assert result.metrics == EXPECTED.metrics
    assert {q: r.ids for q, r in result.rankings.items()} == {q: r.ids for q, r in EXPECTED.rankings.items()}
    assert result.costs.ms_per_query > 0
    assert not {fault.kind for fault in result.faults} & {"query-failed", "unknown-result"}


async def test_it_is_asked_on_the_running_loop_and_beside_it():
    loops = []

    class Where:
        async def ainvoke(self, question):
            loops.append(asyncio.get_running_loop())
            return [Document("", id=name) for name in ids(question)]

    found = await aevaluate(Where(), DATA)
    assert set(loops) == {asyncio.get_running_loop()}
    assert len(loops) == 10
    assert evaluate(Where(), DATA).results[0].metrics == found.results[0].metrics  # a notebook has a loop too


def test_a_query_that_fails_is_named_and_counts_0():
    (result,) = evaluate(LangChain(fails=("q3",)), DATA).results
    (failed,) = [fault for fault in result.faults if fault.kind == "query-failed"]
    assert (failed.count, failed.total) == (1, 10)
    assert failed.examples == ("q3: ValueError('the database is away')",)
    assert result.per_query["nDCG@10"]["q3"] == 0
    assert result.metrics["nDCG@10"] == pytest.approx(EXPECTED.metrics["nDCG@10"] * 0.9)
    with pytest.raises(InputError, match="All 10 queries failed, the first with ValueError"):
        evaluate(LangChain(fails=tuple(DATA.queries)), DATA)


def test_a_query_that_hangs_fails_after_its_time():
    class Hangs:
        async def ainvoke(self, question):
            if BY_TEXT[question] == "q9":
                await asyncio.sleep(60)
            return [Document("", id=name) for name in ids(question)]

    start = time.monotonic()
    (result,) = evaluate(Hangs(), DATA, timeout=0.1).results
    assert time.monotonic() - start < 20
    assert [fault.examples for fault in result.faults if fault.kind == "query-failed"] == [("q9: TimeoutError()",)]


def test_queries_are_asked_at_once_up_to_the_bound(monkeypatch):
    monkeypatch.setattr("zh_retrieval.evaluation.retrievers._TIMED", 2)
    chain = LangChain()
    evaluate(chain, DATA, concurrency=3)
    assert chain.busy == [0, 3]


def test_results_of_another_corpus_are_named_and_keep_their_rank():
    class Foreign:
        async def ainvoke(self, question):
            return [Document("别处的文字"), *(Document("", id=name) for name in ids(question)[1:])]

    (result,) = evaluate(Foreign(), DATA).results
    (unknown,) = [fault for fault in result.faults if fault.kind == "unknown-result"]
    assert (unknown.count, unknown.total) == (10, 30)
    assert result.metrics == EXPECTED.metrics


def test_a_row_number_of_the_store_does_not_win_over_what_says_the_passage():
    """The corpus is numbered 1 to 5, the store numbers its rows too, in another order."""
    corpus = {str(n): Passage(f"第{n}段说的是{THINGS[n]}的保管办法，" * 3) for n in range(1, 6)}
    data = Dataset(
        "编号", {f"q{n}": f"问{n}" for n in range(1, 6)}, corpus, {f"q{n}": {str(n): 1} for n in range(1, 6)}
    )

    def chain(make):
        class Store:
            async def ainvoke(self, question):
                return [make(int(question[1:]))]

        return evaluate(Store(), data).results[0]

    def text(n, shown=slice(None)):
        return corpus[str(n)].text[shown]

    for make in (
        lambda n: Document(id=str(6 - n), page_content=text(n), metadata={"doc_id": str(n)}),
        lambda n: Document(id=str(n), page_content=text(n), metadata={"id": 6 - n, "source": str(6 - n)}),
        lambda n: Document(id=str(6 - n), page_content=text(n)),  # the text alone says it
        lambda n: Document(id=str(6 - n), page_content=text(n, slice(0, 12)), metadata={"source": str(n)}),
        lambda n: Document(id=str(6 - n), page_content="摘要", metadata={"doc_id": str(n)}),
        lambda n: Document(id=str(6 - n), page_content="", metadata={"doc_id": n}),
        lambda n: TextNode(id_=str(6 - n), text=text(n), metadata={"doc_id": str(n)}),
        lambda n: TextNode(
            id_=str(6 - n), text=text(n, slice(2, 9)),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(n))},
        ),
    ):  # fmt: skip
        assert chain(make).metrics["Success@1"] == 1
    (doubtful,) = [
        fault for fault in chain(lambda n: Document(id=str(6 - n), page_content="改写过的文字")).faults
        if fault.kind == "doubtful-result"
    ]  # fmt: skip
    assert doubtful.count == 5
    assert "identify=" in doubtful.message


@pytest.mark.parametrize("key", ["context", "documents", "source_documents", "anything"])
def test_a_chain_that_gives_a_dict_is_measured_by_its_documents(key):
    class Chain:
        async def ainvoke(self, question):
            return {"input": question, key: [Document("", id=name) for name in ids(question)], "answer": "答案"}

    assert evaluate(Chain(), DATA).results[0].metrics == EXPECTED.metrics


def test_a_dict_without_documents_says_what_was_expected():
    class Chain:
        async def ainvoke(self, question):
            return {"answer": "答案", "tokens": [1, 2]}

    with pytest.raises(InputError, match=r"dict of 'answer', 'tokens'\. Expected documents in one of context"):
        evaluate(Chain(), DATA)


def test_a_chain_that_finds_few_says_that_deep_measures_see_no_more():
    (result,) = evaluate(LangChain(), DATA).results
    (short,) = [fault for fault in result.faults if fault.kind == "short-rankings"]
    assert (short.count, short.total) == (10, 10)
    assert "fewer than 10 passages, 3 at most" in short.message


def test_several_chains_are_compared():
    found = evaluate_systems(DATA, [Retrieved(LangChain(), name="one"), Retrieved(Engine(), name="two")])
    assert "no difference" in found.comparisons[0].sentence


def test_ranks_that_stand_for_scores_get_no_threshold():
    found = evaluate_systems(DATA, [Retrieved(LangChain(), name="one")], sweep=True)
    assert found.sweep["score_threshold"] == []
    assert found.sweep["top_k"]


def test_what_is_no_retriever_is_refused():
    with pytest.raises(ConfigError, match="dict is no retriever"):
        evaluate({}, DATA)

    class Text:
        async def ainvoke(self, question):
            return "a text"

    with pytest.raises(InputError, match="The chain gave str"):
        evaluate(Text(), DATA)
