"""LlamaIndex's own parts around ours: Settings, fusion, query engines, streaming, tracing, ingestion caches."""

import asyncio
import inspect
from collections import Counter

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.embeddings import loading
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import CompletionResponse, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

import zh_retrieval as zr
from llama_index_zh_retrieval import BGEReranker, ModelScopeEmbedding
from tests.contract.demo_corpus import OPTIONS, brute_force, passages, questions
from tests.contract.watching import LIMIT, longest_pause
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker


@pytest.fixture(autouse=True)
def _settings_stay(monkeypatch):
    for name in ("_llm", "_embed_model", "_callback_manager"):
        monkeypatch.setattr(Settings, name, getattr(Settings, name))


@pytest.fixture(scope="module")
def embedding():
    loaded = ModelScopeEmbedding(**OPTIONS)
    yield loaded
    loaded.unload()


@pytest.fixture(scope="module")
def nodes(embedding):
    made = [TextNode(id_=name, text=text) for name, text, _ in passages()]
    return embedding(made)


@pytest.fixture
def index(embedding, nodes):
    return VectorStoreIndex(nodes, embed_model=embedding)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))
    return BGEReranker(path=folder, device="cpu", dtype="float32", top_n=3)


def ids(found):
    return [scored.node.node_id for scored in found]


def two_stages(core, encoder, question):
    """Return the ids of brute force's best six, reranked, best three first."""
    texts = {name: text for name, text, _ in passages()}
    candidates = brute_force(encoder, question, 6)
    return [candidates[entry.index] for entry in core.rank(question, [texts[name] for name in candidates], top_n=3)]


@pytest.mark.slow
def test_settings_give_the_model_to_indexes_that_name_none(embedding, nodes, encoder):
    Settings.embed_model = embedding
    index = VectorStoreIndex([node.model_copy(update={"embedding": None}) for node in nodes])
    for question in questions(3):
        assert ids(index.as_retriever(similarity_top_k=4).retrieve(question)) == brute_force(encoder, question, 4)


class Fixed(BaseRetriever):
    """Finds the same nodes always."""

    def __init__(self, nodes):
        self._nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=node, score=1 / place) for place, node in enumerate(self._nodes, 1)]


@pytest.mark.parametrize("use_async", [False, True])
def test_reciprocal_rank_fusion_takes_our_ranking(use_async, index, nodes, encoder):
    question = questions(1)[0]
    best = brute_force(encoder, question, 4)
    other = [node for name in (best[2], best[3], "x") for node in nodes if node.node_id == name]
    made = QueryFusionRetriever(
        [index.as_retriever(similarity_top_k=3), Fixed(other)], llm=MockLLM(), num_queries=1,
        mode="reciprocal_rerank", similarity_top_k=4, use_async=use_async,
    )  # fmt: skip
    scores = Counter({best[0]: 1 / 60, best[1]: 1 / 61, best[2]: 1 / 62 + 1 / 60, best[3]: 1 / 61})
    found = made.retrieve(question)
    assert {scored.node.node_id: scored.score for scored in found} == pytest.approx(dict(scores))
    assert ids(found)[:2] == [best[2], best[0]]
    assert ids(asyncio.run(made.aretrieve(question))) == ids(found)


async def test_a_query_engine_reranks_sync_and_async(index, reranker, encoder):
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=6, node_postprocessors=[reranker])
    for question in questions(3):
        expected = two_stages(reranker._load(), encoder, question)
        for response in (engine.query(question), await engine.aquery(question)):
            assert ids(response.source_nodes) == expected
            assert response.source_nodes[0].text in str(response)  # the mock repeats its prompt


class SlowLLM(MockLLM):
    """Gives one character at a time, and waits a little for each, as a real service does."""

    async def astream_complete(self, prompt, formatted=False, **kwargs):
        async def stream():
            for end in range(1, 41):
                await asyncio.sleep(0.002)
                yield CompletionResponse(text=prompt[:end], delta=prompt[end - 1 : end])

        return stream()


def test_a_streamed_answer_is_whole(index, reranker, encoder):
    question = questions(1)[0]
    engine = index.as_query_engine(
        llm=MockLLM(max_tokens=20), streaming=True, similarity_top_k=6, node_postprocessors=[reranker]
    )
    response = engine.query(question)
    assert "".join(response.response_gen).strip() == " ".join(["text"] * 20)  # old LlamaIndex ends with a space
    assert ids(response.source_nodes) == two_stages(reranker._load(), encoder, question)


@pytest.mark.timing
async def test_async_streams_go_on_while_others_are_embedded_and_reranked(index, embedding, reranker, encoder):
    question, answers = questions(1)[0], []
    expected = two_stages(reranker._load(), encoder, question)
    engine = index.as_query_engine(llm=SlowLLM(), streaming=True, similarity_top_k=6, node_postprocessors=[reranker])

    async def stream():
        response = await engine.aquery(question)
        assert ids(response.source_nodes) == expected
        answers.append("".join([token async for token in response.async_response_gen()]))

    async def work():
        bulk = embedding.aget_text_embedding_batch([text for _, text, _ in passages()])
        await asyncio.gather(bulk, *(stream() for _ in range(4)))

    pauses = []
    while len(pauses) < 3 and min(pauses, default=1) >= LIMIT:  # best of three: see test_event_loop
        pauses.append(await longest_pause(work()))
    assert min(pauses) < LIMIT
    assert {len(answer) for answer in answers} == {40}


class Events(BaseEventHandler):
    names: list[str]

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **_):
        self.names.append(event.class_name())


@pytest.fixture
def traced():
    """Yield the names of events and the span handler that see everything."""
    dispatcher, events, spans = get_dispatcher(), Events(names=[]), SimpleSpanHandler()
    before = list(dispatcher.event_handlers), list(dispatcher.span_handlers)
    dispatcher.add_event_handler(events)
    dispatcher.add_span_handler(spans)
    yield events.names, spans
    dispatcher.event_handlers, dispatcher.span_handlers = before


def completed(spans):
    return Counter(span.id_.split("-")[0] for span in spans.completed_spans)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_events_and_spans_are_seen_and_balanced(way, index, reranker, traced):
    names, spans = traced
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=6, node_postprocessors=[reranker])
    if way == "sync":
        engine.query(questions(1)[0])
    else:
        asyncio.run(engine.aquery(questions(1)[0]))
    letter = "" if way == "sync" else "a"
    assert [name for name in names if name.startswith(("Embedding", "Retrieval", "ReRank"))] == [
        "RetrievalStartEvent", "EmbeddingStartEvent", "EmbeddingEndEvent", "RetrievalEndEvent",
        "ReRankStartEvent", "ReRankEndEvent",
    ]  # fmt: skip
    assert not spans.open_spans
    assert not spans.dropped_spans
    seen = completed(spans)
    for name in (
        f"VectorIndexRetriever._{letter}retrieve",
        f"ModelScopeEmbedding.{letter}get_query_embedding",
        f"ModelScopeEmbedding._{letter}get_query_embedding",
        f"BGEReranker._{letter}postprocess_nodes",
    ):
        assert seen[name] == 1, name


def test_an_error_closes_every_span(index, reranker, traced):
    _, spans = traced
    engine = index.as_query_engine(llm=MockLLM(), node_postprocessors=[reranker])
    with pytest.raises(zr.InputError, match="lone surrogate"):
        engine.query("坏\ud800")
    assert not spans.open_spans
    assert {"ModelScopeEmbedding._get_query_embedding"} <= {span.id_.split("-")[0] for span in spans.dropped_spans}


class Trace(BaseCallbackHandler):
    """Remembers what started inside what, and what ended."""

    def __init__(self):
        super().__init__([], [])
        self.types, self.parents, self.ended = {}, {}, []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **_):
        self.types[event_id], self.parents[event_id] = event_type, parent_id
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **_):
        self.ended.append(event_id)

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass

    def chains(self):
        """Return for each event the names of itself and of what it is in, innermost first."""
        return [[kind.value for kind in self._chain(event)] for event in self.types]

    def _chain(self, event):
        while event in self.types:
            yield self.types[event]
            event = self.parents[event]


async def test_callbacks_are_events_inside_the_query(embedding, nodes, reranker):
    trace = Trace()
    Settings.callback_manager = CallbackManager([trace])
    index = VectorStoreIndex(nodes, embed_model=embedding)
    engine = index.as_query_engine(llm=MockLLM(), node_postprocessors=[reranker])
    try:
        engine.query(questions(1)[0])
        await engine.aquery(questions(1)[0])
    finally:
        embedding.callback_manager = reranker.callback_manager = CallbackManager([])
    embedded, reranked = CBEventType.EMBEDDING.value, CBEventType.RERANKING.value
    chains = [chain for chain in trace.chains() if chain[0] in (embedded, reranked)]
    assert chains == [[embedded, "retrieve", "query"], [reranked, "query"]] * 2
    assert sorted(trace.ended) == sorted(trace.types)


NOWHERE = "cuda:99"  # no machine has it: whatever is computed there fails, whatever comes from a cache does not


def pipeline(cache=None, **options):
    """Return a pipeline that splits and embeds."""
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    return IngestionPipeline(transformations=[splitter, ModelScopeEmbedding(**(OPTIONS | options))], cache=cache)


def documents():
    return [Document(text=text, id_=name) for name, text, _ in passages(6)]


def vectors(nodes):
    return np.float32([node.embedding for node in nodes])


def contents(nodes):
    return [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Return the nodes of a first run and the folder of its cache."""
    folder = tmp_path_factory.mktemp("ingested")
    first = pipeline()
    nodes = first.run(documents=documents())
    first.persist(str(folder))
    return nodes, folder


def reloaded(folder, **options):
    made = pipeline(**options)
    made.load(str(folder))
    return made


async def test_a_cache_read_from_disk_spares_every_computation_on_any_device(ingested):
    nodes, folder = ingested
    for again in (
        reloaded(folder, device=NOWHERE).run(documents=documents()),
        await reloaded(folder, device=NOWHERE).arun(documents=documents()),
    ):
        assert contents(again) == contents(nodes)
        np.testing.assert_array_equal(vectors(again), vectors(nodes))


@pytest.mark.parametrize("change", [{"model": "bge-base-zh"}, {"dtype": "bfloat16"}, {"max_length": 64}])
def test_what_changes_vectors_misses_the_cache(change, ingested):
    _, folder = ingested
    with pytest.raises((zr.ConfigError, zr.MissingExtraError), match=NOWHERE):
        reloaded(folder, device=NOWHERE, **change).run(documents=documents())


def test_another_query_instruction_misses_the_cache(tmp_path):
    options = {"model": "bge-base-zh", "path": tiny_bert(tmp_path / "model")}
    first = pipeline(**options)
    first.run(documents=documents())
    assert pipeline(first.cache, **options, device=NOWHERE).run(documents=documents())
    with pytest.raises((zr.ConfigError, zr.MissingExtraError), match=NOWHERE):
        pipeline(first.cache, **options, device=NOWHERE, query_instruction="检索：").run(documents=documents())


def test_what_changes_no_vector_hits_the_cache(ingested, tmp_path):
    _, folder = ingested
    options = {"cache_dir": tmp_path, "max_batch_tokens": 100, "private": True, "local_files_only": True}
    assert reloaded(folder, device=NOWHERE, show_progress=True, **options).run(documents=documents())


@pytest.mark.slow
def test_ingestion_runs_in_worker_processes(encoder):
    made = IngestionPipeline(transformations=[ModelScopeEmbedding(**OPTIONS)]).run(documents=documents(), num_workers=2)
    np.testing.assert_allclose(vectors(made), encoder.encode_documents([text for _, text, _ in passages(6)]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    "cache_entries" not in inspect.getsource(IngestionPipeline.run),
    reason="this LlamaIndex leaves what workers cache behind",
)
def test_worker_processes_fill_a_cache_that_a_later_program_reads(tmp_path):
    # without a splitter: LlamaIndex's own, sent to another process, fetches tiktoken's vocabulary from the network
    first = IngestionPipeline(transformations=[ModelScopeEmbedding(**OPTIONS)])
    made = first.run(documents=documents(), num_workers=2)
    first.cache.persist(str(tmp_path / "cache.json"))
    cache = IngestionCache.from_persist_path(str(tmp_path / "cache.json"))
    later = IngestionPipeline(transformations=[ModelScopeEmbedding(**(OPTIONS | {"device": NOWHERE}))], cache=cache)
    np.testing.assert_array_equal(vectors(later.run(documents=documents(), num_workers=2)), vectors(made))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # LlamaIndex forks here
async def test_async_ingestion_runs_in_worker_processes(ingested):
    nodes, _ = ingested
    made = await pipeline().arun(documents=documents(), num_workers=2)
    np.testing.assert_allclose(vectors(made), vectors(nodes), atol=1e-5)


def test_an_embeddings_cache_works_where_queries_and_documents_are_alike(tmp_path):
    folder, store = tiny_bert(tmp_path / "model"), SimpleKVStore()
    options = {"path": folder, "query_instruction": "", "dtype": "float32"}
    made = ModelScopeEmbedding("bge-base-zh", device="cpu", embeddings_cache=store, **options)
    texts = ["我们去公园", "今天天气很好"]
    first = made.get_text_embedding_batch(texts)
    store.persist(str(tmp_path / "cache.json"))
    kept = SimpleKVStore.from_persist_path(str(tmp_path / "cache.json"))
    other = ModelScopeEmbedding("bge-base-zh", device=NOWHERE, embeddings_cache=kept, **options)
    assert other.get_text_embedding_batch(texts) == first
    assert other.get_query_embedding(texts[0]) == first[0]
    with pytest.raises((zr.ConfigError, zr.MissingExtraError), match=NOWHERE):
        other.get_query_embedding("新的")


def test_a_stored_dictionary_is_loaded_by_name(embedding, monkeypatch):
    monkeypatch.setitem(loading.RECOGNIZED_EMBEDDINGS, ModelScopeEmbedding.class_name(), ModelScopeEmbedding)
    again = loading.load_embed_model(embedding.to_dict())
    assert again.to_dict() == embedding.to_dict()
    assert again.device == "auto"  # where to compute is a matter of the machine
    assert loading.load_embed_model(embedding) is embedding
