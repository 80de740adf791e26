"""LlamaIndex's HybridRetriever over real stores, and within LlamaIndex's own retrievers, engines and events."""

import asyncio
import copy
import pickle

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index_instrumentation import get_dispatcher

import zh_retrieval as zr
from llama_index_zh_retrieval import BM25Retriever, HybridRetriever
from tests.contract.demo_corpus import passages, questions
from tests.contract.hybrid_corpus import KnownEmbedding, dense_side, fused_by_the_core, lexical_side, nodes

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TOPIC1 = MetadataFilters(filters=[MetadataFilter(key="topic", value="topic1")])


def qdrant():
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    return QdrantVectorStore("demo", client=QdrantClient(":memory:"))


@pytest.fixture(scope="module")
def embed_model(encoder):
    return KnownEmbedding(encoder)


@pytest.fixture(scope="module")
def index(embed_model):
    return VectorStoreIndex(nodes(), embed_model=embed_model)


@pytest.fixture(scope="module")
def lexical():
    return BM25Retriever.from_nodes(nodes())


@pytest.fixture(scope="module")
def hybrid(index, lexical):
    return HybridRetriever(index.as_retriever(similarity_top_k=100), lexical)


def ids(found):
    return [scored.node.node_id for scored in found]


async def test_the_ranking_and_the_scores_are_the_cores(hybrid, encoder):
    for question in questions():
        expected = fused_by_the_core(encoder, question, 10)
        for found in (hybrid.retrieve(question), await hybrid.aretrieve(question)):
            assert ids(found) == [name for name, _ in expected]
            assert [scored.score for scored in found] == pytest.approx([score for _, score in expected], abs=1e-5)


async def test_qdrant_gives_the_same_ranking(embed_model, lexical, encoder):
    storage = StorageContext.from_defaults(vector_store=qdrant())
    index = VectorStoreIndex(qdrant_nodes(), storage_context=storage, embed_model=embed_model)
    made = HybridRetriever(index.as_retriever(similarity_top_k=100), lexical)
    for question in questions(3):
        texts = [scored.node.text for scored in made.retrieve(question)]
        known = {text: name for name, text, _ in passages()}
        assert [known[text] for text in texts] == [name for name, _ in fused_by_the_core(encoder, question, 10)]


def qdrant_nodes():
    """Return the nodes with ids that Qdrant takes: the same texts are the same nodes."""
    return [
        TextNode(text=node.text, metadata=node.metadata, excluded_embed_metadata_keys=["topic"]) for node in nodes()
    ]


class Distances(BaseRetriever):
    """Scores as a store of distances gives them, such as FAISS with IndexFlatL2."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def _retrieve(self, query_bundle):
        near = dense_side(self.encoder, query_bundle.query_str, 100)
        return [NodeWithScore(node=TextNode(id_=name, text=name), score=2 - 2 * cosine) for name, cosine in near]


def test_distances_are_seen_as_such(lexical, encoder):
    made = HybridRetriever(Distances(encoder), lexical)
    for question in questions(3):
        assert ids(made.retrieve(question)) == [name for name, _ in fused_by_the_core(encoder, question, 10)]


def test_a_retriever_without_scores_is_refused(lexical):
    class Scoreless(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=TextNode(text="茶"))]

    with pytest.raises(zr.InputError, match="Node 0 of the dense retriever has no score"):
        HybridRetriever(Scoreless(), lexical).retrieve("茶")


def test_bm25_gives_the_cores_ranking_and_copies(lexical):
    for question in questions():
        found = lexical.retrieve(question)
        assert [(scored.node.node_id, scored.score) for scored in found] == lexical_side(question, 10)
    found[0].node.set_content("changed")
    assert lexical.retrieve(question)[0].node.text != "changed"


def test_filters_of_an_index_hold_for_the_lexical_side_too(index, lexical):
    right = {name for name, _, topic in passages() if topic == "topic1"}
    for made in (
        HybridRetriever(index.as_retriever(similarity_top_k=100, filters=TOPIC1), lexical, similarity_top_k=40),
        HybridRetriever(
            index.as_retriever(similarity_top_k=100, filters=TOPIC1), lexical.limited(1, TOPIC1), similarity_top_k=40
        ),
    ):
        assert set(ids(made.retrieve(questions(1)[0]))) == right
    assert lexical.filters is None


def test_what_holds_for_one_side_alone_is_refused(index, lexical):
    with pytest.raises(zr.ConfigError, match="filters of the BM25Retriever hold for the lexical side alone"):
        HybridRetriever(index.as_retriever(similarity_top_k=100), lexical.limited(1, TOPIC1)).retrieve("茶")
    with pytest.raises(zr.ConfigError, match="doc_ids of the dense retriever hold for the dense side alone"):
        HybridRetriever(index.as_retriever(similarity_top_k=100, doc_ids=["a"]), lexical).retrieve("茶")


async def test_scores_of_both_sides_are_kept_on_demand_and_out_of_prompts(index, lexical):
    made = HybridRetriever(index.as_retriever(similarity_top_k=100), lexical, keep_side_scores=True)
    question = questions(1)[0]
    own = dict(lexical_side(question, 100))
    for scored in made.retrieve(question):
        metadata = scored.node.metadata
        assert metadata["hybrid_score"] == scored.score
        assert metadata["lexical_score"] == own.get(scored.node.node_id)
        assert 0 < metadata["dense_score"] < 1
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert "score" not in scored.node.get_content(metadata_mode=mode)


class Events(BaseEventHandler):
    names: list[str]

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **_):
        if event.class_name().startswith("Retrieval"):
            self.names.append(event.class_name())


async def test_every_retrieval_start_event_has_its_end(hybrid):
    events = Events(names=[])
    dispatcher = get_dispatcher()
    handlers = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(events)
    try:
        hybrid.retrieve(questions(1)[0])
        in_turn = list(events.names)
        await hybrid.aretrieve(questions(1)[0])
    finally:
        dispatcher.event_handlers = handlers
    start, end = "RetrievalStartEvent", "RetrievalEndEvent"
    assert in_turn == [start, start, end, start, end, end]
    assert sorted(events.names[6:]) == sorted(in_turn)
    assert events.names[6] == start
    assert events.names[-1] == end


async def test_both_sides_are_searched_side_by_side():
    turns = []

    class Side(BaseRetriever):
        def _retrieve(self, query_bundle):
            raise NotImplementedError

        async def _aretrieve(self, query_bundle):
            turns.append("start")
            await asyncio.sleep(0)
            turns.append("end")
            return []

    assert await HybridRetriever(Side(), Side()).aretrieve("茶") == []
    assert turns == ["start", "start", "end", "end"]


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "simple"])
async def test_query_fusion_takes_both(mode, hybrid, lexical):
    made = QueryFusionRetriever(
        [hybrid, lexical], llm=MockLLM(), mode=mode, num_queries=1, similarity_top_k=5, use_async=False
    )
    question = questions(2)[1]
    for found in (made.retrieve(question), await made.aretrieve(question)):
        assert len(set(ids(found))) == len(found) == 5
        assert ids(hybrid.retrieve(question))[0] in ids(found)


def test_a_router_takes_both(hybrid, lexical):
    class First(MockLLM):
        def complete(self, *args, **kwargs):
            from llama_index.core.llms import CompletionResponse

            return CompletionResponse(text='[{"choice": 2, "reason": "words"}]')

    tools = [
        RetrieverTool.from_defaults(each, description=name) for name, each in (("both", hybrid), ("bm25", lexical))
    ]
    made = RouterRetriever(selector=LLMSingleSelector.from_defaults(llm=First()), retriever_tools=tools, llm=First())
    question = questions(2)[1]
    assert sorted(ids(made.retrieve(question))) == sorted(ids(lexical.retrieve(question)))


def test_a_query_engine_answers_by_it(hybrid):
    response = RetrieverQueryEngine.from_args(hybrid, llm=MockLLM(max_tokens=5)).query(questions(1)[0])
    assert ids(response.source_nodes) == ids(hybrid.retrieve(questions(1)[0]))


def test_a_dense_side_that_returns_less_than_is_weighed_is_warned_of(index, lexical, caplog):
    HybridRetriever(index.as_retriever(), lexical)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "The dense retriever returns 2 results, but HybridRetriever weighs the first 100 of it: "
        "set similarity_top_k=100."
    ]


def test_wrong_arguments_are_refused(index, lexical):
    dense = index.as_retriever(similarity_top_k=100)
    for bad in ({"weight": 1.5}, {"weight": "half"}, {"similarity_top_k": 0}, {"depth": 0}, {"keep_side_scores": 1}):
        with pytest.raises(zr.ConfigError, match=next(iter(bad))):
            HybridRetriever(dense, lexical, **bad)
    with pytest.raises(zr.ConfigError, match="lexical is VectorStoreIndex, expected a retriever"):
        HybridRetriever(dense, index)
    with pytest.raises(TypeError, match="top_k"):
        HybridRetriever(dense, lexical, top_k=3)
    for bad in ({"similarity_top_k": 0}, {"k1": -1.0}, {"b": 2.0}):
        with pytest.raises(zr.ConfigError, match=next(iter(bad))):
            BM25Retriever.from_nodes(nodes(), **bad)


async def test_a_vector_of_the_question_is_for_the_dense_side_alone(hybrid, encoder):
    question = questions(1)[0]
    other = encoder.encode_queries([questions(2)[1]])[0].tolist()
    found = hybrid.retrieve(QueryBundle(question, embedding=other))
    assert ids(found) != ids(hybrid.retrieve(question))


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_and_pickles_of_bm25_answer_alike(way, lexical):
    question = questions(2)[1]
    made = way(lexical)
    assert made.retrieve(question) == lexical.retrieve(question)
    made.delete_nodes(ids(lexical.retrieve(question)))
    assert ids(lexical.retrieve(question))
