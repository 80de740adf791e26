"""Sparse embeddings of both frameworks in the stores that take them: Qdrant and Milvus."""

import copy
import json
import pickle

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import TextNode
from llama_index_instrumentation import get_dispatcher

import zh_retrieval as zr
from langchain_zh_retrieval import HybridRetriever, ModelScopeSparseEmbeddings
from llama_index_zh_retrieval import ModelScopeSparseEmbedding
from tests.contract.demo_corpus import passages, questions
from tests.contract.hybrid_corpus import KnownEmbedding, KnownVectors, documents, fused_by_the_core, lexical_side
from zh_retrieval.sparse.bm25 import average_length

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SPARSE_INDEX = {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX", "params": {}}  # all that Milvus Lite has
TEXTS = ["绿茶ＡＢ用80度水，绿茶。", "猫喜欢睡觉。", ""]


@pytest.fixture(scope="module")
def own_length():
    """Return the settings by which BM25 as vectors equals BM25 over the demo corpus."""
    return {"average_length": average_length(text for _, text, _ in passages())}


async def test_both_frameworks_give_the_cores_vectors():
    chain, engine = ModelScopeSparseEmbeddings("bm25-zh"), ModelScopeSparseEmbedding("bm25-zh")
    core = zr.load_sparse_encoder("bm25-zh")
    expected = [vector.as_dict() for vector in core.encode_documents(TEXTS)]
    assert chain.embed_documents(TEXTS) == await chain.aembed_documents(TEXTS) == expected
    assert engine.get_text_embedding_batch(TEXTS) == await engine.aget_text_embedding_batch(TEXTS) == expected
    assert engine.get_text_embedding(TEXTS[0]) == await engine.aget_text_embedding(TEXTS[0]) == expected[0]
    assert engine.sparse_doc_fn(TEXTS) == ([list(e) for e in expected], [list(e.values()) for e in expected])
    (query,) = (vector.as_dict() for vector in core.encode_queries(TEXTS[:1]))
    assert chain.embed_query(TEXTS[0]) == await chain.aembed_query(TEXTS[0]) == query
    assert engine.get_query_embedding(TEXTS[0]) == await engine.aget_query_embedding(TEXTS[0]) == query
    assert engine.sparse_query_fn(TEXTS[:1]) == ([list(query)], [list(query.values())])
    assert chain.embed_documents([]) == engine.get_text_embedding_batch([]) == []


def test_langchains_vectors_have_the_forms_of_both_stores():
    vector = ModelScopeSparseEmbeddings("bm25-zh").embed_query(TEXTS[0])
    assert isinstance(vector, dict)
    assert vector.indices == list(vector.keys())
    assert vector.values == vector.values() == [vector[index] for index in vector.indices]
    assert {type(index) for index in vector.indices} == {int}
    assert {type(value) for value in vector.values} == {float}


def test_both_stores_packages_take_the_class_for_theirs():
    made = ModelScopeSparseEmbeddings("bm25-zh")
    qdrant = pytest.importorskip("langchain_qdrant.sparse_embeddings")
    milvus = pytest.importorskip("langchain_milvus.utils.sparse")
    assert isinstance(made, qdrant.SparseEmbeddings)
    assert isinstance(made, milvus.BaseSparseEmbedding)
    assert isinstance(ModelScopeSparseEmbedding("bm25-zh"), BaseSparseEmbedding)


def test_neither_package_is_needed(monkeypatch):
    for name in ("langchain_qdrant", "langchain_milvus"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert ModelScopeSparseEmbeddings("bm25-zh").embed_query("绿茶")


def qdrant_store(mode, encoder, settings):
    qdrant = pytest.importorskip("langchain_qdrant")
    from qdrant_client import models

    return qdrant.QdrantVectorStore.from_documents(
        documents(), KnownVectors(encoder), sparse_embedding=ModelScopeSparseEmbeddings("bm25-zh", **settings),
        retrieval_mode=qdrant.RetrievalMode(mode), location=":memory:", collection_name="demo",
        sparse_vector_params={"modifier": models.Modifier.IDF},
    )  # fmt: skip


def bm25_of(question):
    """Return {name: BM25} of all that shares a term, as vectors have it: k1 + 1 times as large."""
    return pytest.approx({name: score * 2.2 for name, score in lexical_side(question, 40)}, rel=1e-4)


def test_qdrant_with_idf_ranks_as_bm25(encoder, own_length):
    store = qdrant_store("sparse", encoder, own_length)
    asked = [question for question in questions(12) if len(set(terms := zr.terms(question))) == len(terms)]
    assert len(asked) > 5
    for question in asked:  # as vectors, a term of a question counts once
        found = store.similarity_search_with_score(question, k=40)
        assert {document.metadata["id"]: score for document, score in found} == bm25_of(question)
        assert found[0][0].metadata["id"] == lexical_side(question, 1)[0][0]


def test_qdrant_in_hybrid_mode_takes_both(encoder, own_length):
    store = qdrant_store("hybrid", encoder, own_length)
    for question in questions(3):
        both = {name for name, _ in fused_by_the_core(encoder, question, 40)}
        found = store.similarity_search(question, k=10)
        assert len(found) == 10
        assert {document.metadata["id"] for document in found} <= both
        assert lexical_side(question, 1)[0][0] in {document.metadata["id"] for document in found}


async def test_two_modes_of_one_qdrant_collection_are_fused(encoder, own_length):
    """Both sides in the store: nothing is kept in memory."""
    from langchain_qdrant import QdrantVectorStore, RetrievalMode
    from qdrant_client import models

    lexical = qdrant_store("hybrid", encoder, own_length)
    common = {"client": lexical.client, "collection_name": "demo", "embedding": KnownVectors(encoder)}
    dense = QdrantVectorStore(**common, retrieval_mode=RetrievalMode.DENSE)
    sparse = QdrantVectorStore(
        **common, retrieval_mode=RetrievalMode.SPARSE, sparse_embedding=lexical.sparse_embeddings
    )
    made = HybridRetriever(vectorstore=dense, lexical=sparse)
    for question in questions(3):
        expected = [name for name, _ in fused_by_the_core(encoder, question, 10)]
        assert [document.metadata["id"] for document in made.invoke(question)] == expected
        assert [document.metadata["id"] for document in await made.ainvoke(question)] == expected
    match = models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="topic1"))
    found = made.invoke(questions(1)[0], k=40, search_kwargs={"filter": models.Filter(must=[match])})
    assert {document.metadata["topic"] for document in found} == {"topic1"}


def test_milvus_takes_dense_and_sparse(encoder, tmp_path):
    milvus = pytest.importorskip("langchain_milvus")
    pytest.importorskip("milvus_lite")
    store = milvus.Milvus.from_documents(
        documents(), [KnownVectors(encoder), ModelScopeSparseEmbeddings("bm25-zh")],
        vector_field=["dense", "sparse"], connection_args={"uri": str(tmp_path / "milvus.db")},
        index_params=[{"metric_type": "COSINE", "index_type": "FLAT", "params": {}}, SPARSE_INDEX],
        search_params=[{"metric_type": "COSINE", "params": {}}, {"metric_type": "IP", "params": {}}],
    )  # fmt: skip
    question = questions(1)[0]
    found = store.similarity_search(question, k=5, ranker_type="weighted", ranker_params={"weights": [0.5, 0.5]})
    assert len(found) == 5
    assert lexical_side(question, 1)[0][0] in {document.metadata["id"] for document in found}


def llama_store(settings):
    stores = pytest.importorskip("llama_index.vector_stores.qdrant")
    from qdrant_client import QdrantClient, models

    sparse = ModelScopeSparseEmbedding("bm25-zh", **settings)
    return stores.QdrantVectorStore(
        "demo", client=QdrantClient(":memory:"), enable_hybrid=True, sparse_doc_fn=sparse.sparse_doc_fn,
        sparse_query_fn=sparse.sparse_query_fn,
        sparse_config=models.SparseVectorParams(modifier=models.Modifier.IDF),
    )  # fmt: skip


def test_llama_index_fills_qdrant_by_a_pipeline_and_asks_each_side(encoder, own_length):
    store, embed_model = llama_store(own_length), KnownEmbedding(encoder)
    names = {text: name for name, text, _ in passages()}
    IngestionPipeline(transformations=[embed_model], vector_store=store).run(nodes=[TextNode(text=t) for t in names])
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    sparse = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=40)
    hybrid = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=10, sparse_top_k=10)
    for question in questions(3):
        found = sparse.retrieve(question)
        assert {names[scored.node.text]: scored.score for scored in found} == bm25_of(question)
        assert lexical_side(question, 1)[0][0] in {names[scored.node.text] for scored in hybrid.retrieve(question)}


class Events(BaseEventHandler):
    names: list[str]

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **_):
        self.names.append(event.class_name())


def test_events_come_with_each_embedding():
    events, dispatcher = Events(names=[]), get_dispatcher()
    handlers = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(events)
    try:
        ModelScopeSparseEmbedding("bm25-zh").get_query_embedding("绿茶")
    finally:
        dispatcher.event_handlers = handlers
    assert events.names == ["SparseEmbeddingStartEvent", "SparseEmbeddingEndEvent"]


BOTH = pytest.mark.parametrize("cls", [ModelScopeSparseEmbeddings, ModelScopeSparseEmbedding])


@BOTH
def test_settings_count_and_take_effect_when_they_are_set(cls):
    made = cls("bm25-zh", k1=0.5, b=0.0)
    core = zr.load_sparse_encoder("bm25-zh", k1=0.5, b=0.0)
    assert vectors(made) == [vector.as_dict() for vector in core.encode_documents(TEXTS)]
    made.k1 = None
    assert vectors(made) == [v.as_dict() for v in zr.load_sparse_encoder("bm25-zh", b=0.0).encode_documents(TEXTS)]
    assert made.needs_idf


def vectors(made):
    return made.embed_documents(TEXTS) if hasattr(made, "embed_documents") else made.get_text_embedding_batch(TEXTS)


@BOTH
def test_wrong_models_and_options_are_refused_at_once(cls):
    with pytest.raises(zr.UnknownModelError, match="bm25-zh"):
        cls("bm25-zhh")
    with pytest.raises(zr.WrongTaskError, match="bge-m3"):
        cls("bge-base-zh")
    for bad in ({"k1": -1}, {"b": 2}, {"average_length": 0}, {"max_length": 8}, {"unknown": 1}, {"path": "x"}):
        with pytest.raises(zr.ConfigError, match=next(iter(bad))):
            cls("bm25-zh", **bad)
    with pytest.raises(zr.ConfigError, match="k1 is no option"):
        cls("bge-m3", k1=1.0)
    made = cls("bm25-zh")
    with pytest.raises(zr.ConfigError, match="k1"):
        made.k1 = -1
    assert made.k1 is None


@BOTH
def test_a_key_is_in_no_repr_dump_or_pickle(cls):
    made = cls("bge-m3", base_url="http://127.0.0.1:9", api_key="very-secret")
    for shown in (repr(made), str(made.model_dump()), made.model_dump_json(), str(pickle.dumps(made))):
        assert "very-secret" not in shown
    assert made.model_dump()["base_url"] == "http://127.0.0.1:9"


@BOTH
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_has_the_settings_and_loads_for_itself(cls, way):
    made = cls("bm25-zh", k1=0.7)
    expected = vectors(made)
    other = way(made)
    assert other._lazy._held is None
    assert other.model_dump() == made.model_dump()
    assert vectors(other) == expected
    assert hash(other) == hash(made)


def test_dictionaries_round_trip():
    made = ModelScopeSparseEmbedding("bm25-zh", average_length=99.0, embed_batch_size=7)
    for stored in (made.to_dict(), json.loads(made.model_dump_json())):
        again = ModelScopeSparseEmbedding.from_dict(stored)
        assert again.to_dict() == made.to_dict()
        assert (again.average_length, again.embed_batch_size) == (99.0, 7)
