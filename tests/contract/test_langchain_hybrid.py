"""LangChain's HybridRetriever over real stores of every kind of score: the ranking is the core's."""

import asyncio
import copy
import pickle
import threading

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests

import zh_retrieval as zr
from langchain_zh_retrieval import BM25Retriever, HybridRetriever
from tests.contract.demo_corpus import passages, questions
from tests.contract.hybrid_corpus import KnownVectors, dense_side, documents, fused_by_the_core

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def in_memory(embeddings):
    return InMemoryVectorStore.from_documents(documents(), embeddings)


def faiss(strategy):
    def make(embeddings):
        from langchain_community.vectorstores import FAISS

        return FAISS.from_documents(documents(), embeddings, distance_strategy=strategy)

    return make


def chroma(space):
    def make(embeddings):
        from langchain_chroma import Chroma

        configuration = {"hnsw": {"space": space}}
        store = Chroma(f"hybrid-{space}", embeddings, collection_configuration=configuration)
        store.add_documents(documents())
        return store

    return make


def qdrant(distance):
    def make(embeddings):
        from langchain_qdrant import QdrantVectorStore
        from qdrant_client.models import Distance

        return QdrantVectorStore.from_documents(
            documents(), embeddings, location=":memory:", collection_name="demo", distance=Distance(distance)
        )

    return make


STORES = {
    "in memory": in_memory,
    "FAISS, squared distance": faiss("EUCLIDEAN_DISTANCE"),
    "FAISS, inner product": faiss("MAX_INNER_PRODUCT"),
    "Chroma, squared distance": chroma("l2"),
    "Chroma, cosine distance": chroma("cosine"),
    "Chroma, 1 - inner product": chroma("ip"),
    "Qdrant, cosine": qdrant("Cosine"),
    "Qdrant, inner product": qdrant("Dot"),
}


@pytest.fixture(scope="module")
def embeddings(encoder):
    return KnownVectors(encoder)


@pytest.fixture(scope="module")
def hybrid(embeddings):
    """Return a retriever that no test changes."""
    return HybridRetriever.from_documents(documents(), embeddings)


def names(found):
    return [document.metadata["id"] for document in found]


@pytest.mark.parametrize("kind", STORES)
async def test_every_kind_of_score_gives_the_ranking_of_the_core(kind, embeddings, encoder):
    retriever = HybridRetriever(vectorstore=STORES[kind](embeddings), lexical=BM25Retriever(documents()), depth=20)
    for question in questions(4):
        expected = fused_by_the_core(encoder, question, 10, depth=20)
        for found in (retriever.invoke(question), await retriever.ainvoke(question)):
            assert names(found) == [name for name, _ in expected]
            scores = [document.metadata["hybrid_score"] for document in found]
            assert scores == pytest.approx([score for _, score in expected], abs=1e-4)


def test_documents_in_memory_have_the_ranking_and_the_scores_of_the_core(hybrid, encoder):
    for question in questions():
        found = hybrid.invoke(question)
        expected = fused_by_the_core(encoder, question, 10)
        assert names(found) == [name for name, _ in expected]
        assert [document.metadata["hybrid_score"] for document in found] == pytest.approx(
            [s for _, s in expected], abs=1e-5
        )
        cosines = dict(dense_side(encoder, question, 100))
        for document in found:
            assert document.metadata["dense_score"] == pytest.approx(cosines[document.metadata["id"]], abs=1e-6)
            assert document.metadata["lexical_score"] is None or document.metadata["lexical_score"] > 0
            assert "bm25_score" not in document.metadata


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_is_the_dense_sides_share(weight, hybrid, encoder):
    made = hybrid.model_copy(update={"weight": weight})
    for question in questions(3):
        expected = fused_by_the_core(encoder, question, 10, weight=weight)
        assert names(made.invoke(question)) == [name for name, _ in expected]


def question_with_a_filter():
    return questions(1)[0], {name for name, _, topic in passages() if topic == "topic1"}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("FAISS, squared distance", {"search_kwargs": {"filter": {"topic": "topic1"}, "fetch_k": 100}}),
        ("Chroma, cosine distance", {"search_kwargs": {"filter": {"topic": "topic1"}}}),
        ("in memory", {"search_kwargs": {"filter": lambda document: document.metadata["topic"] == "topic1"}}),
        ("in memory", {"search_kwargs": {"filter": {"topic": "topic1"}}}),
        ("in memory", {"lexical_filter": lambda document: document.metadata["topic"] == "topic1"}),
    ],
)
async def test_a_filter_holds_for_both_sides(kind, asked, embeddings):
    store, lexical = STORES[kind](embeddings), BM25Retriever.from_documents(documents())
    question, right = question_with_a_filter()
    made = HybridRetriever(vectorstore=store, lexical=lexical, k=40, **asked)
    plain = HybridRetriever(vectorstore=store, lexical=lexical, k=40)
    assert len(names(plain.invoke(question))) == 40
    for found in (made.invoke(question), await made.ainvoke(question), plain.invoke(question, **asked)):
        assert set(names(found)) == right


def test_a_filter_that_only_the_store_reads_is_said_for_both(embeddings):
    from qdrant_client import models

    match = models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="topic1"))
    asked = {"filter": models.Filter(must=[match])}
    made = HybridRetriever(
        vectorstore=STORES["Qdrant, cosine"](embeddings), lexical=BM25Retriever(documents()), search_kwargs=asked, k=40
    )
    question, right = question_with_a_filter()
    with pytest.raises(zr.ConfigError, match="lexical_filter=lambda document"):
        made.invoke(question)
    found = made.invoke(question, lexical_filter=lambda document: document.metadata["topic"] == "topic1")
    assert set(names(found)) == right


def test_a_filter_of_the_lexical_side_alone_is_refused(embeddings):
    store, lexical = STORES["Chroma, cosine distance"](embeddings), BM25Retriever(documents())
    question, _ = question_with_a_filter()
    made = HybridRetriever(vectorstore=store, lexical=lexical, lexical_filter=lambda document: False, k=40)
    with pytest.raises(zr.ConfigError, match="holds for the lexical side alone"):
        made.invoke(question)
    assert len(made.invoke(question, search_kwargs={"filter": None})) == 40


def test_a_store_in_memory_keeps_its_own_filter_beside_that_of_the_lexical_side(embeddings):
    made = HybridRetriever(
        vectorstore=in_memory(embeddings), lexical=BM25Retriever(documents()), k=40,
        search_kwargs={"filter": {"topic": "topic1"}}, lexical_filter=lambda document: False,
    )  # fmt: skip
    question, right = question_with_a_filter()
    assert set(names(made.invoke(question))) == right


class Scored(BaseRetriever):
    """A foreign retriever that puts its scores into metadata."""

    store: VectorStore
    key: str = "score"
    fetched: int = 100

    def _get_relevant_documents(self, query, *, run_manager):
        return [
            document.model_copy(update={"metadata": {**document.metadata, self.key: score}})
            for document, score in self.store.similarity_search_with_score(query, k=self.fetched)
        ]


@pytest.mark.parametrize("kind", ["in memory", "FAISS, squared distance"])
async def test_two_retrievers_with_scores_are_fused(kind, embeddings, encoder):
    dense = Scored(store=STORES[kind](embeddings), key="distance")
    made = HybridRetriever(dense=dense, lexical=BM25Retriever(documents()), score_key="distance")
    for question in questions(3):
        expected = [name for name, _ in fused_by_the_core(encoder, question, 10)]
        assert names(made.invoke(question)) == expected
        assert names(await made.ainvoke(question)) == expected


def test_a_retriever_without_scores_is_refused(embeddings):
    dense = Scored(store=STORES["in memory"](embeddings), key="distance")
    made = HybridRetriever(dense=dense, lexical=BM25Retriever(documents()))
    with pytest.raises(zr.InputError, match=r"Document 0 of the dense retriever has metadata\['score'\] None"):
        made.invoke("茶")
    with pytest.raises(zr.ConfigError, match="search_kwargs are for a vectorstore="):
        made.invoke("茶", search_kwargs={"filter": {}})
    with pytest.raises(zr.ConfigError, match="a side of this HybridRetriever is another retriever"):
        made.add_documents([])


async def test_a_store_without_scores_is_refused():
    class Scoreless(VectorStore):
        def similarity_search(self, query, k=4, **kwargs):
            return []

        @classmethod
        def from_texts(cls, texts, embedding, metadatas=None, **kwargs):
            return cls()

    made = HybridRetriever(vectorstore=Scoreless(), lexical=BM25Retriever())
    with pytest.raises(zr.ConfigError, match="Scoreless has no similarity_search_with_score"):
        made.invoke("茶")
    with pytest.raises(zr.ConfigError, match="Scoreless has no similarity_search_with_score"):
        await made.ainvoke("茶")


async def test_documents_are_added_replaced_and_deleted_on_both_sides(embeddings):
    made = await HybridRetriever.afrom_documents(documents()[:5], embeddings)
    ids = made.add_documents([Document(page_content="滑雪板要打蜡保养。", metadata={"id": "new"})])
    assert names(made.invoke("滑雪板怎么保养？"))[0] == "new"
    again = await made.aadd_documents(
        [Document(page_content="钢琴每年要调音一次。", metadata={"id": "newer"}, id=ids[0])]
    )
    assert again == ids
    found = made.invoke("钢琴多久调音？", k=10)
    assert names(found)[0] == "newer"
    assert len(found) == 6
    assert found[0].metadata["lexical_score"] > 0
    assert "new" not in names(made.invoke("滑雪板怎么保养？", k=10))
    made.delete(ids)
    assert len(made.invoke("钢琴多久调音？", k=10)) == 5
    await made.adelete([document.id for document in made.invoke("茶", k=10)])
    assert made.invoke("茶") == await made.ainvoke("茶") == []


def test_what_was_given_is_not_changed_and_results_are_copies(embeddings):
    given = documents()[:5]
    given[0].metadata["lock"] = threading.Lock()
    before = [dict(document.metadata) for document in given]
    made = HybridRetriever.from_documents(given, embeddings)
    found = made.invoke(questions(1)[0])
    for document in found:
        document.metadata["topic"] = "changed"
    assert [document.metadata for document in given] == before
    assert [document.id for document in given] == [None] * 5
    assert all(document.metadata["topic"] != "changed" for document in made.invoke(questions(1)[0]))


class Names(BaseCallbackHandler):
    def __init__(self):
        self.started, self.ended, self.parents = [], [], []

    def on_retriever_start(self, serialized, query, *, name=None, parent_run_id=None, **kwargs):
        self.started.append(name)
        self.parents.append(parent_run_id)

    def on_retriever_end(self, documents, **kwargs):
        self.ended.append(len(documents))


async def test_callbacks_see_the_retriever_and_its_lexical_side(hybrid):
    for invoke in (hybrid.invoke, lambda *given: asyncio.get_running_loop().create_task(hybrid.ainvoke(*given))):
        handler = Names()
        result = invoke(questions(1)[0], {"callbacks": [handler]})
        found = result if isinstance(result, list) else await result
        assert handler.started == ["HybridRetriever", "BM25Retriever"]
        assert handler.parents[0] is None
        assert handler.parents[1] is not None
        assert handler.ended[-1] == len(found) == 10


async def test_both_sides_are_searched_side_by_side(embeddings):
    met = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None
    if met is None:
        pytest.skip("needs asyncio.Barrier, of Python 3.11")

    class Store(InMemoryVectorStore):
        async def asimilarity_search_with_score(self, query, k=4, **kwargs):
            await met.wait()
            return self.similarity_search_with_score(query, k, **kwargs)

    class Lexical(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            raise NotImplementedError

        async def _aget_relevant_documents(self, query, *, run_manager):
            await met.wait()
            return []

    made = HybridRetriever(vectorstore=Store.from_documents(documents()[:3], embeddings), lexical=Lexical())
    assert len(await asyncio.wait_for(made.ainvoke("茶"), 30)) == 3


def test_a_reranker_stands_on_top(hybrid):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_core.cross_encoders import BaseCrossEncoder

    class Length(BaseCrossEncoder):
        def score(self, text_pairs):
            return [float(len(text)) for _, text in text_pairs]

    found = ContextualCompressionRetriever(
        base_compressor=CrossEncoderReranker(model=Length(), top_n=2), base_retriever=hybrid
    ).invoke(questions(1)[0])
    longest = sorted(hybrid.invoke(questions(1)[0]), key=lambda document: -len(document.page_content))
    assert names(found) == names(longest[:2])


def refusals():
    store, lexical = InMemoryVectorStore(None), BM25Retriever()
    sides = {"vectorstore": store, "lexical": lexical}
    yield {"lexical": lexical}, "needs one of vectorstore= and dense="
    yield {**sides, "dense": lexical}, "needs one of vectorstore= and dense="
    yield {"vectorstore": store}, "lexical is missing"
    for name, bad in (("weight", 1.5), ("weight", "half"), ("k", 0), ("depth", 0), ("lexical", "bm25"), ("topk", 3)):
        yield {**sides, name: bad}, name


@pytest.mark.parametrize(("given", "said"), list(refusals()))
def test_wrong_arguments_are_refused(given, said):
    with pytest.raises(zr.ConfigError, match=said):
        HybridRetriever(**given)


def test_a_field_that_is_set_later_is_checked(hybrid):
    made = hybrid.model_copy()
    made.k = 2
    assert len(made.invoke(questions(1)[0])) == 2
    with pytest.raises(zr.ConfigError, match="weight"):
        made.weight = 2
    with pytest.raises(zr.ConfigError, match="k="):
        made.invoke("茶", k=0)
    with pytest.raises(zr.InputError, match="query"):
        made.invoke(3)
    assert made.weight == 0.5


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_and_pickles_answer_alike(way, encoder):
    from langchain_zh_retrieval import ModelScopeEmbeddings
    from tests.contract.demo_corpus import OPTIONS

    made = HybridRetriever.from_documents(documents()[:2], ModelScopeEmbeddings(**OPTIONS), k=3)
    question = questions(1)[0]
    assert way(made).invoke(question) == made.invoke(question)


class TestHybridStandard(RetrieversIntegrationTests):
    """LangChain's own suite."""

    @pytest.fixture(autouse=True)
    def _made(self, embeddings):
        type(self).store = in_memory(embeddings)

    @property
    def retriever_constructor(self):
        return HybridRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.store, "lexical": BM25Retriever(documents())}

    @property
    def retriever_query_example(self):
        return questions(1)[0]


class TestBM25Standard(RetrieversIntegrationTests):
    """LangChain's own suite."""

    @property
    def retriever_constructor(self):
        return BM25Retriever

    @property
    def retriever_constructor_params(self):
        return {"documents": documents()}

    @property
    def retriever_query_example(self):
        return questions(2)[1]
