"""LangChain's own parts around ours: LCEL, ensembles, tracing, score thresholds, sharing."""

import asyncio

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

import zh_retrieval as zr
from langchain_zh_retrieval import BGEReranker, ModelScopeEmbeddings
from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.contract.demo_corpus import OPTIONS, brute_force, passages, questions
from tests.tiny_models import tiny_xlmr_reranker


@pytest.fixture(scope="module")
def embeddings():
    loaded = ModelScopeEmbeddings(**OPTIONS)
    yield loaded
    loaded.unload()


@pytest.fixture(scope="module")
def store(embeddings):
    made = InMemoryVectorStore(embeddings)
    made.add_documents([Document(page_content=text, id=name) for name, text, _ in passages()])
    return made


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))
    return BGEReranker(path=folder, device="cpu", dtype="float32", top_n=3)


def chain(store, seen):
    prompt = ChatPromptTemplate.from_template("资料：{context}\n问题：{question}")
    model = FakeListChatModel(responses=["答案"])

    def note(value):
        seen.append(value.to_string())
        return value

    context = store.as_retriever(search_kwargs={"k": 2}) | (lambda found: "\n".join(d.page_content for d in found))
    return (
        {"context": context, "question": RunnablePassthrough()}
        | prompt
        | RunnableLambda(note)
        | model
        | StrOutputParser()
    )


def test_an_lcel_chain_gets_the_best_passages_into_the_prompt(store, encoder):
    texts, seen = {name: text for name, text, _ in passages()}, []
    question = questions(1)[0]
    assert chain(store, seen).invoke(question) == "答案"
    assert all(texts[name] in seen[0] for name in brute_force(encoder, question, 2))


async def test_an_lcel_chain_streams_batches_and_runs_async(store):
    made = chain(store, [])
    assert "".join([part async for part in made.astream(questions(1)[0])]) == "答案"
    assert await made.abatch(questions(4)) == ["答案"] * 4


def test_a_compression_retriever_keeps_the_best_of_the_reranker(store, reranker):
    made = ContextualCompressionRetriever(
        base_compressor=reranker, base_retriever=store.as_retriever(search_kwargs={"k": 6})
    )
    question = questions(1)[0]
    candidates = store.similarity_search(question, k=6)
    assert made.invoke(question) == reranker.compress_documents(candidates, question)
    assert len(made.invoke(question)) == 3


def test_an_ensemble_fuses_our_retriever_with_another(store, encoder):
    question = questions(1)[0]
    best = brute_force(encoder, question, 3)

    class Other(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return list(store.get_by_ids(best[1:2]))

    ours = store.as_retriever(search_kwargs={"k": 3})
    made = EnsembleRetriever(retrievers=[ours, Other()], weights=[0.5, 0.5], id_key=None)
    assert [document.id for document in made.invoke(question)] == [best[1], best[0], best[2]]


class Tracer(BaseCallbackHandler):
    def __init__(self):
        self.names = []

    def on_retriever_start(self, serialized, query, **_):
        self.names.append("retriever start")

    def on_retriever_end(self, documents, **_):
        self.names.append(f"retriever end {len(documents)}")

    def on_chain_start(self, serialized, inputs, *, name=None, **_):
        self.names.append(f"{name} start")

    def on_chain_end(self, outputs, **_):
        self.names.append("chain end")


def test_callbacks_see_the_retriever_and_the_runnable_reranker(store, reranker):
    tracer = Tracer()
    documents = store.as_retriever(search_kwargs={"k": 4}).invoke("茶", config={"callbacks": [tracer]})
    reranker.as_runnable().invoke({"query": "茶", "documents": documents}, config={"callbacks": [tracer]})
    assert tracer.names == ["retriever start", "retriever end 4", "BGEReranker start", "chain end"]
    assert reranker.compress_documents(documents, "茶", callbacks=[tracer]) == reranker.compress_documents(
        documents, "茶"
    )


async def test_async_callbacks_are_accepted(store, reranker):
    documents = store.similarity_search("茶", k=4)
    found = await reranker.acompress_documents(documents, "茶", callbacks=[AsyncCallbackHandler()])
    assert found == reranker.compress_documents(documents, "茶")


def test_a_score_threshold_of_the_retriever_works(embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_texts(["绿茶用八十度的水冲泡。", "猫一天睡十几个小时。"])
    found = store.similarity_search_with_score("泡绿茶水温多少？", k=2)
    assert found[0][1] > found[1][1] + 0.02
    assert all(-1 <= score <= 1 + 1e-6 for _, score in found)


def test_both_frameworks_and_several_chains_share_one_set_of_weights(embeddings):
    others = [ModelScopeEmbeddings(**OPTIONS) for _ in range(3)]
    llama = ModelScopeEmbedding(**OPTIONS)
    models = {id(made._load()._model) for made in [embeddings, *others, llama]}
    assert len(models) == 1
    for made in [*others, llama]:
        made.unload()
    assert embeddings.embed_query("茶")


def test_the_query_instruction_can_be_replaced_and_switched_off(tmp_path):
    from tests.tiny_models import tiny_bert

    folder = tiny_bert(tmp_path)
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32") as core:
        for instruction in (None, "", "检索："):
            made = ModelScopeEmbeddings(
                "bge-base-zh", path=folder, device="cpu", dtype="float32", query_instruction=instruction
            )
            assert made.embed_query("茶") == core.encode_queries(["茶"], instruction=instruction)[0].tolist()
        assert core.encode_queries(["茶"], instruction="").tolist() == core.encode_documents(["茶"]).tolist()


def test_many_async_queries_share_forward_passes(embeddings):
    scheduler = embeddings._load()._model.scheduler
    launches = []
    engine = scheduler.batcher.engine
    original = type(engine).launch

    async def ask():
        return await asyncio.gather(*(embeddings.aembed_query(f"问题{n}") for n in range(32)))

    class Counting:
        def __getattr__(self, name):
            return getattr(engine, name)

        def launch(self, tokens):
            launches.append(len(tokens))
            return original(engine, tokens)

    scheduler.batcher.engine = Counting()
    try:
        vectors = asyncio.run(ask())
    finally:
        scheduler.batcher.engine = engine
    assert len(vectors) == 32
    assert sum(launches) == 32
    assert len(launches) < 8
