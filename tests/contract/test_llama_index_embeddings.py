"""`ModelScopeEmbedding` as LlamaIndex uses it."""

import pickle

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import resolve_embed_model
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings
from llama_index_zh_retrieval import ModelScopeEmbedding

OPTIONS = {"model": "e5-small-zh", "device": "cpu", "dtype": "float32"}
TEXTS = ["绿茶用八十度的水。", "第一行\n第二行", "", "Python asyncio"]


@pytest.fixture(scope="module")
def embedding():
    return ModelScopeEmbedding(**OPTIONS)


def test_public_methods_equal_the_core_and_langchain(embedding, encoder):
    langchain = ModelScopeEmbeddings(**OPTIONS)
    documents = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_array_equal(np.float32(documents), encoder.encode_documents(TEXTS))
    assert documents == langchain.embed_documents(TEXTS)
    assert embedding.get_query_embedding("茶") == langchain.embed_query("茶")
    assert type(documents[0][0]) is float
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), documents[0], atol=1e-6)


async def test_async_twins_equal_sync(embedding):
    np.testing.assert_allclose(
        await embedding.aget_query_embedding("茶"), embedding.get_query_embedding("茶"), atol=1e-6
    )
    np.testing.assert_allclose(
        await embedding.aget_text_embedding_batch(TEXTS), embedding.get_text_embedding_batch(TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(
        await embedding.aget_text_embedding(TEXTS[0]), embedding.get_text_embedding(TEXTS[0]), atol=1e-6
    )


def test_the_whole_job_reaches_the_core_at_once(embedding):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    made = ModelScopeEmbedding(**OPTIONS, callback_manager=CallbackManager([handler]))
    assert made.embed_batch_size == 2048
    made.get_text_embedding_batch([f"第{n}段" for n in range(50)])
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 1


def test_dictionaries_round_trip_and_hold_what_changes_vectors():
    made = ModelScopeEmbedding("bge-base-zh", device="cpu", max_length=64, query_instruction="", cache_dir="/x")
    stored = made.to_dict()
    assert ModelScopeEmbedding.from_dict(stored).to_dict() == stored
    assert (stored["max_length"], stored["query_instruction"], stored["dtype"]) == (64, "", "auto")
    assert not {"device", "cache_dir", "max_batch_tokens", "private"} & set(stored)
    assert stored["class_name"] == "ModelScopeEmbedding"


def test_pickles_hold_settings_only(embedding):
    embedding.get_query_embedding("茶")
    data = pickle.dumps(embedding)
    assert len(data) < 4000
    again = pickle.loads(data)
    assert again.device == "cpu"
    assert again.get_query_embedding("茶") == embedding.get_query_embedding("茶")


def test_payloads_hold_no_secret(monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    made = ModelScopeEmbedding(**OPTIONS)
    payload = getattr(made, "to_payload", dict)()  # not in the oldest LlamaIndex
    assert "secret" not in f"{payload}{made.to_json()}{made!r}"


def test_a_cache_by_bare_text_is_refused_where_queries_and_documents_differ():
    with pytest.raises(zr.ConfigError, match="keyed by the bare text"):
        ModelScopeEmbedding(**OPTIONS, embeddings_cache=SimpleKVStore())
    with pytest.raises(zr.ConfigError, match="keyed by the bare text"):
        ModelScopeEmbedding("bge-base-zh", embeddings_cache=SimpleKVStore())
    assert ModelScopeEmbedding("jina-base-zh", embeddings_cache=SimpleKVStore()).embeddings_cache is not None
    assert ModelScopeEmbedding("bge-base-zh", query_instruction="", embeddings_cache=SimpleKVStore()) is not None


def test_settings_take_the_native_class_and_no_langchain_one(embedding):
    assert resolve_embed_model(embedding) is embedding
    with pytest.raises((ImportError, AssertionError, AttributeError)):  # LlamaIndex's bridge to LangChain is broken
        resolve_embed_model(ModelScopeEmbeddings(**OPTIONS)).get_query_embedding("茶")


def test_unknown_arguments_are_refused():
    with pytest.raises(zr.ConfigError, match="no remote code is run"):
        ModelScopeEmbedding("bge-base-zh", trust_remote_code=True)


def test_an_index_finds_the_right_node(embedding):
    texts = {"tea": "绿茶要用八十度的水冲泡", "cat": "猫喜欢睡觉", "train": "火车票可以退票"}
    index = VectorStoreIndex([TextNode(id_=k, text=t) for k, t in texts.items()], embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve("怎么泡茶")[0].node.node_id == "tea"


def test_an_ingestion_pipeline_caches_by_what_changes_vectors(embedding):
    cache = IngestionCache()
    documents = [Document(text="绿茶要用八十度的水冲泡。" * 5)]
    first = IngestionPipeline(transformations=[SentenceSplitter(), embedding], cache=cache).run(documents=documents)
    again = IngestionPipeline(transformations=[SentenceSplitter(), embedding], cache=cache).run(documents=documents)
    assert [n.embedding for n in again] == [n.embedding for n in first]


@pytest.mark.slow
def test_an_ingestion_pipeline_runs_in_worker_processes(embedding, encoder):
    documents = [Document(text=f"第{n}篇：绿茶要用八十度的水冲泡。") for n in range(4)]
    pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
    found = pipeline.run(documents=documents, num_workers=2)
    np.testing.assert_allclose(
        [node.embedding for node in found], encoder.encode_documents([d.text for d in documents]), atol=1e-5
    )
