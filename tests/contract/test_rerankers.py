"""Both rerankers in both frameworks: copies, scores, order, events, async; all on tiny random models."""

import copy
import logging
import math
import sys
import threading
from collections import deque

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

import zh_retrieval as zr
from langchain_zh_retrieval import BGEReranker as LangChainBGE
from langchain_zh_retrieval import RankingGPTReranker as LangChainGPT
from llama_index_zh_retrieval import BGEReranker as LlamaBGE
from llama_index_zh_retrieval import RankingGPTReranker as LlamaGPT
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker

QUERY = "怎么泡茶？"
TEXTS = ["绿茶要用八十度的水冲泡", "猫喜欢睡觉", "火车票可以退票", "猫喜欢睡觉", "红茶用沸水"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        "bge": tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr")),
        "gpt": tiny_causal_lm(tmp_path_factory.mktemp("causal")),
    }


@pytest.fixture(scope="module", params=["bge", "gpt"])
def case(request, folders):
    """Return (LangChain class, LlamaIndex class, core handle, options) of one model."""
    classes = {"bge": (LangChainBGE, LlamaBGE, "bge-reranker-large"), "gpt": (LangChainGPT, LlamaGPT, "rankinggpt")}
    langchain, llama, name = classes[request.param]
    options = {"path": folders[request.param], "device": "cpu", "dtype": "float32"}
    with zr.load_reranker(name, **options) as core:
        yield langchain, llama, core, options


def documents():
    return [
        Document(page_content=t, id=f"d{i}", metadata={"n": [i], "relevance_score": "stale"})
        for i, t in enumerate(TEXTS)
    ]


def nodes():
    return [NodeWithScore(node=TextNode(id_=f"d{i}", text=t), score=0.5 - i / 10) for i, t in enumerate(TEXTS)]


def test_both_frameworks_and_the_core_give_the_same_order_and_scores(case):
    langchain, llama, core, options = case
    ranked = [(f"d{entry.index}", entry.score) for entry in core.rank(QUERY, TEXTS)]
    kept = langchain(**options).compress_documents(documents(), QUERY)
    assert [(d.id, d.metadata["relevance_score"]) for d in kept] == ranked
    found = llama(**options).postprocess_nodes(nodes(), query_str=QUERY)
    assert [(n.node.node_id, n.score) for n in found] == ranked


async def test_async_equals_sync(case):
    langchain, llama, _, options = case
    compressor, postprocessor = langchain(**options, top_n=3), llama(**options, top_n=3)
    assert await compressor.acompress_documents(documents(), QUERY) == compressor.compress_documents(documents(), QUERY)
    found = await postprocessor.apostprocess_nodes(nodes(), QueryBundle(QUERY))
    assert [n.score for n in found] == [n.score for n in postprocessor.postprocess_nodes(nodes(), QueryBundle(QUERY))]
    assert len(found) == 3


def test_inputs_are_not_changed_and_copies_are_independent(case):
    langchain, llama, _, options = case
    before = documents()
    snapshot = copy.deepcopy(before)
    kept = langchain(**options).compress_documents(before, QUERY)
    kept[0].metadata["n"].append(99)
    assert before == snapshot
    assert all(type(d.metadata["relevance_score"]) is float for d in kept)
    given = nodes()
    found = llama(**options, keep_retrieval_score=True).postprocess_nodes(given, query_str=QUERY)
    assert [n.score for n in given] == [n.score for n in nodes()]
    assert all("retrieval_score" not in n.node.metadata for n in given)
    assert {n.node.metadata["retrieval_score"] for n in found} == {n.score for n in given}
    assert all("retrieval_score" not in n.node.get_content(metadata_mode=MetadataMode.EMBED) for n in found)
    assert all("retrieval_score" not in n.node.get_content(metadata_mode=MetadataMode.LLM) for n in found)


def test_ties_keep_the_order_of_the_input(case):
    langchain, _, _, options = case
    ids = [d.id for d in langchain(**options).compress_documents(documents(), QUERY)]
    assert ids.index("d1") + 1 == ids.index("d3")


async def test_empty_input_gives_empty_output(case):
    langchain, llama, _, options = case
    compressor, postprocessor = langchain(**options), llama(**options)
    assert compressor.compress_documents([], QUERY) == []
    assert await compressor.acompress_documents([], QUERY) == []
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    assert await postprocessor.apostprocess_nodes([], QueryBundle(QUERY)) == []
    assert compressor._lazy._held is postprocessor._lazy._held is None  # nothing was loaded for it
    assert compressor.score([]) == []


def test_thresholds_apply_after_normalisation(case):
    langchain, llama, core, options = case
    normalize = "sigmoid" if core.spec.scoring == "classification" else "exp"
    made = langchain(**options, normalize=normalize)
    raw = core.rank(QUERY, TEXTS)
    expected = [1 / (1 + math.exp(-r.score)) if normalize == "sigmoid" else math.exp(r.score) for r in raw]
    scores = [d.metadata["relevance_score"] for d in made.compress_documents(documents(), QUERY)]
    assert scores == pytest.approx(expected)
    middle = scores[2]
    kept = langchain(**options, normalize=normalize, score_threshold=middle).compress_documents(documents(), QUERY)
    assert [d.metadata["relevance_score"] for d in kept] == [s for s in scores if s >= middle]
    found = llama(**options, normalize=normalize, score_threshold=middle).postprocess_nodes(nodes(), query_str=QUERY)
    assert len(found) == len(kept)


def test_wrong_options_are_refused(case):
    langchain, llama, core, options = case
    wrong = "exp" if core.spec.scoring == "classification" else "sigmoid"
    for cls in (langchain, llama):
        for bad in ({"normalize": wrong}, {"top_n": 0}, {"unknown": 1}):
            with pytest.raises(zr.ConfigError):
                cls(**options, **bad)
        with pytest.raises(zr.WrongTaskError):
            cls("bge-base-zh")


def test_langchain_interfaces_are_the_real_ones(case):
    langchain, _, core, options = case
    made = langchain(**options, top_n=2)
    assert isinstance(made, BaseDocumentCompressor)
    assert isinstance(made, BaseCrossEncoder)
    pairs = [(QUERY, text) for text in TEXTS]
    assert made.score(pairs) == core.score(pairs).tolist()
    runnable = made.as_runnable()
    assert runnable.invoke({"query": QUERY, "documents": documents()}) == made.compress_documents(documents(), QUERY)


async def test_the_runnable_form_is_async_too(case):
    langchain, _, _, options = case
    made = langchain(**options, top_n=2)
    found = await made.as_runnable().ainvoke({"query": QUERY, "documents": documents()})
    assert found == made.compress_documents(documents(), QUERY)


def test_contextual_compression_retriever_uses_it(case):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

    langchain, _, _, options = case

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return documents()

    made = langchain(**options, top_n=2)
    found = ContextualCompressionRetriever(base_compressor=made, base_retriever=All()).invoke(QUERY)
    assert found == made.compress_documents(documents(), QUERY)
    classic = CrossEncoderReranker(model=made, top_n=2).compress_documents(documents(), QUERY)
    assert [d.id for d in classic] == [d.id for d in found]


class Recorder(BaseEventHandler):
    names: list[str]

    @classmethod
    def class_name(cls):
        return "Recorder"

    def handle(self, event, **_):
        if event.class_name().startswith("ReRank"):
            self.names.append(event.class_name())


def test_every_rerank_start_event_has_its_end(case):
    _, llama, _, options = case
    recorder = Recorder(names=[])
    dispatcher = get_dispatcher()
    handlers = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(recorder)
    try:
        made = llama(**options)
        made.postprocess_nodes(nodes(), query_str=QUERY)
        made.postprocess_nodes([], query_str=QUERY)
        with pytest.raises(zr.InputError):
            made.postprocess_nodes([NodeWithScore(node=TextNode(text="bad \ud800"), score=1.0)], query_str=QUERY)
    finally:
        dispatcher.event_handlers = handlers
    assert recorder.names == ["ReRankStartEvent", "ReRankEndEvent"] * 3


def test_callbacks_get_the_reranking_event(case):
    _, llama, _, options = case
    handler = LlamaDebugHandler(print_trace_on_end=False)
    made = llama(**options, callback_manager=CallbackManager([handler]))
    made.postprocess_nodes(nodes(), query_str=QUERY)
    pairs = handler.get_event_pairs(CBEventType.RERANKING)
    assert len(pairs) == 1
    assert len(pairs[0]) == 2


def test_text_is_taken_as_the_embedding_sees_it(case):
    _, llama, core, options = case
    node = TextNode(
        text="猫喜欢睡觉", metadata={"title": "动物", "secret": "x"}, excluded_embed_metadata_keys=["secret"]
    )
    found = llama(**options).postprocess_nodes([NodeWithScore(node=node, score=0.1)], query_str=QUERY)
    expected = core.score([(QUERY, node.get_content(metadata_mode=MetadataMode.EMBED))])[0]
    assert found[0].score == pytest.approx(float(expected), abs=1e-6)


def test_a_missing_query_is_refused(case):
    _, llama, _, options = case
    with pytest.raises(zr.InputError, match="needs the query"):
        llama(**options).postprocess_nodes(nodes())


def uncopyable():
    return {"lock": threading.Lock(), "rows": (row for row in [1]), "file": sys.stdin, "list": [1]}


def test_metadata_that_cannot_be_copied_is_shared_and_the_rest_is_copied(case):
    langchain, llama, _, options = case
    given = [Document(page_content=text, metadata=uncopyable()) for text in TEXTS]
    for document in langchain(**options).compress_documents(given, QUERY):
        origin = next(d for d in given if d.metadata["lock"] is document.metadata["lock"])
        assert document.metadata["rows"] is origin.metadata["rows"]
        assert document.metadata["list"] == [1]
        assert document.metadata["list"] is not origin.metadata["list"]
        assert "relevance_score" not in origin.metadata
    scored = nodes()
    for entry in scored:
        entry.node.metadata["list"] = [1]
        entry.node.metadata["lock"] = threading.Lock()
        entry.node.excluded_embed_metadata_keys.append("lock")
    for entry in llama(**options, keep_retrieval_score=True).postprocess_nodes(scored, query_str=QUERY):
        origin = next(s.node for s in scored if s.node.node_id == entry.node.node_id)
        assert entry.node.metadata["lock"] is origin.metadata["lock"]
        assert entry.node.metadata["list"] is not origin.metadata["list"]
        assert entry.node.excluded_llm_metadata_keys is not origin.excluded_llm_metadata_keys
        assert "retrieval_score" not in origin.metadata


@pytest.mark.parametrize("query", ["", " \u3000\n", "绿茶" * 300])
async def test_a_query_without_scores_keeps_the_documents_in_their_order_with_a_warning(case, query, caplog):
    langchain, llama, _, options = case
    options = {**options, "max_length": 64, "top_n": 3}
    made, index = langchain(**options, score_threshold=100), llama(**options, score_threshold=100)
    with caplog.at_level(logging.WARNING, logger="zh_retrieval.frameworks.calls"):
        for kept in (made.compress_documents(documents(), query), await made.acompress_documents(documents(), query)):
            assert kept == documents()[:3]
        for found in (
            index.postprocess_nodes(nodes(), query_str=query),
            await index.apostprocess_nodes(nodes(), QueryBundle(query)),
        ):
            assert [(n.node.node_id, n.score) for n in found] == [(n.node.node_id, n.score) for n in nodes()[:3]]
    messages = [record.getMessage() for record in caplog.records if record.name == "zh_retrieval.frameworks.calls"]
    assert len(messages) == 4
    assert all("3 of 5 come back in their order" in message for message in messages)


@pytest.mark.parametrize("query", ["", " \u3000\n", "绿茶" * 2000])
async def test_a_query_without_scores_is_an_error_everywhere_else(case, query):
    langchain, llama, core, options = case
    strict, index = langchain(**options, on_error="raise"), llama(**options, on_error="raise")
    no_score = pytest.raises(zr.InputError, match=r"empty query|query is empty|no room")
    with no_score:
        strict.compress_documents(documents(), query)
    with no_score:
        await index.apostprocess_nodes(nodes(), QueryBundle(query))
    with no_score:
        strict.score([(QUERY, "茶"), (query, "茶")])
    with no_score:
        core.rank(query, TEXTS)
    with pytest.raises(zr.InputError, match=r"^pairs\[1\]"):
        core.score([(QUERY, "茶"), (query, "茶")])
    assert core.rank("", []) == []


def test_bad_texts_are_an_error_whatever_on_error_says(case):
    langchain, _, _, options = case
    with pytest.raises(zr.InputError, match="lone surrogate"):
        langchain(**options).compress_documents([Document(page_content="bad \ud800")], QUERY)


@pytest.mark.parametrize("inputs", [{"question": "茶", "documents": []}, {"query": "茶"}, {}, "茶", ["茶"]])
async def test_wrong_input_of_the_runnable_is_said_by_its_keys(case, inputs):
    langchain, _, _, options = case
    runnable = langchain(**options).as_runnable()
    expected = ", ".join(map(repr, inputs)) if isinstance(inputs, dict) else type(inputs).__name__
    with pytest.raises(zr.InputError, match=f"got .*{expected}.*, expected"):
        runnable.invoke(inputs)
    with pytest.raises(zr.InputError, match=f"got .*{expected}.*, expected"):
        await runnable.ainvoke(inputs)


def test_documents_may_come_in_anything_like_a_list(case):
    langchain, llama, _, options = case
    expected = langchain(**options).compress_documents(documents(), QUERY)
    assert langchain(**options).compress_documents(deque(documents()), QUERY) == expected
    found = llama(**options).postprocess_nodes(tuple(nodes()), query_str=QUERY)
    assert [n.node.node_id for n in found] == [d.id for d in expected]
