"""`ModelScopeEmbeddings` against LangChain's own suite and its users' expectations."""

import os
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings
from tests.tiny_models import tiny_bert
from zh_retrieval.engine.hardware import cpu_computes_bfloat16

OPTIONS = {"model": "e5-small-zh", "device": "cpu", "dtype": "float32"}
TEXTS = ["绿茶用八十度的水。", "第一行\n第二行", "", "Python asyncio"]


class TestUnitSuite(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return ModelScopeEmbeddings

    @property
    def embedding_model_params(self):
        return dict(OPTIONS)


class TestIntegrationSuite(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return ModelScopeEmbeddings

    @property
    def embedding_model_params(self):
        return dict(OPTIONS)


@pytest.fixture(scope="module")
def embeddings():
    loaded = ModelScopeEmbeddings(**OPTIONS)
    yield loaded
    loaded.unload()


def test_vectors_are_lists_of_python_floats_equal_to_the_core(embeddings, encoder):
    vectors = embeddings.embed_documents(TEXTS)
    assert type(vectors) is list
    assert type(vectors[0]) is list
    assert type(vectors[0][0]) is float
    np.testing.assert_array_equal(np.float32(vectors), encoder.encode_documents(TEXTS))
    np.testing.assert_array_equal(np.float32(embeddings.embed_query("茶")), encoder.encode_queries(["茶"])[0])


def test_texts_reach_the_core_as_they_are(embeddings, monkeypatch):
    seen, kind = [], type(embeddings._load())
    monkeypatch.setattr(kind, "encode_documents", lambda self, texts, **_: seen.extend(texts) or np.zeros((1, 2)))
    monkeypatch.setattr(kind, "encode_queries", lambda self, texts, **_: seen.extend(texts) or np.zeros((1, 2)))
    embeddings.embed_documents([" 一\n二\t "])
    embeddings.embed_query("问\n题")
    assert seen == [" 一\n二\t ", "问\n题"]


def test_empty_list_gives_empty_list_and_input_is_not_changed(embeddings):
    texts = list(TEXTS)
    embeddings.embed_documents(texts)
    assert texts == TEXTS
    assert embeddings.embed_documents([]) == []


async def test_async_equals_sync(embeddings):
    np.testing.assert_allclose(await embeddings.aembed_documents(TEXTS), embeddings.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(await embeddings.aembed_query("茶"), embeddings.embed_query("茶"), atol=1e-6)


@pytest.mark.parametrize("name", ["bge-base-zh", "AI-ModelScope/bge-base-zh-v1.5", "BAAI/bge-base-zh-v1.5"])
def test_a_model_is_named_by_position_keyword_alias_or_hub_id(name):
    for made in (ModelScopeEmbeddings(name), ModelScopeEmbeddings(model=name), ModelScopeEmbeddings(model_name=name)):
        assert made.spec.name == "bge-base-zh-v1.5"


def test_unknown_arguments_and_models_are_refused_at_once():
    with pytest.raises(zr.ConfigError, match="no remote code is run"):
        ModelScopeEmbeddings("bge-base-zh", trust_remote_code=True)
    with pytest.raises(zr.UnknownModelError):
        ModelScopeEmbeddings("bge-small-xx")
    with pytest.raises(zr.WrongTaskError):
        ModelScopeEmbeddings("bge-reranker-large")
    with pytest.raises(zr.ConfigError):
        ModelScopeEmbeddings("jina-base-zh", query_instruction="x")


def test_weights_never_travel_in_pickles(embeddings):
    embeddings.embed_query("茶")
    data = pickle.dumps(embeddings)
    assert len(data) < 2000
    assert pickle.loads(data).embed_query("茶") == embeddings.embed_query("茶")


def test_cache_namespace_tells_apart_what_changes_vectors(tmp_path):
    base = ModelScopeEmbeddings("bge-base-zh", device="cpu").cache_namespace
    assert base == ModelScopeEmbeddings("BAAI/bge-base-zh-v1.5", device="cpu", cache_dir=tmp_path).cache_namespace
    changes = ({"revision": "x"}, {"query_instruction": ""}, {"dtype": "float16"}, {"path": tmp_path},
               {"max_length": 64}, {"overflow": "error"}, {"quantization": "int8"})  # fmt: skip
    found = {ModelScopeEmbeddings("bge-base-zh", device="cpu", **change).cache_namespace for change in changes}
    assert len(found | {base, ModelScopeEmbeddings("bge-large-zh").cache_namespace}) == len(changes) + 2


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"query_template": "{instruction}? {text}"},
        {"document_template": "- {text}"},
        {"suffix": ()},
    ],
)
def test_cache_namespace_tells_apart_recipes_of_one_name(monkeypatch, change):
    made = ModelScopeEmbeddings("bge-base-zh", device="cpu")
    other = replace(made.spec, **change)
    described = replace(made.spec, license="another", parameters=1)
    base = made.cache_namespace
    for spec, same in ((other, False), (described, True)):
        monkeypatch.setattr(ModelScopeEmbeddings, "spec", property(lambda self, spec=spec: spec))
        assert (made.cache_namespace == base) is same


def test_cache_namespace_tells_apart_snapshots(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    made = ModelScopeEmbeddings("bge-base-zh", device="cpu", cache_dir=tmp_path)
    found = {made.cache_namespace}
    folder = tiny_bert(tmp_path / "models" / "AI-ModelScope--bge-base-zh-v1.5" / "snapshots" / "one")
    found.add(first := made.cache_namespace)
    folder.rename(folder.with_name("two"))
    assert made.cache_namespace == first  # the content counts, and no name
    tiny_bert(folder.with_name("two"), seed=1)
    assert len(found | {made.cache_namespace}) == 3


def test_cache_namespace_tells_a_model_trained_again_in_its_folder(tmp_path):
    made = ModelScopeEmbeddings("bge-base-zh", path=tiny_bert(tmp_path), device="cpu")
    before = made.cache_namespace
    (tmp_path / "train.log").write_text("loss 0.1")
    assert before == ModelScopeEmbeddings("bge-base-zh", path=str(tmp_path), device="cpu").cache_namespace
    weights = tmp_path / "model.safetensors"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    tiny_bert(tmp_path, seed=1)
    os.utime(weights, ns=times)
    assert made.cache_namespace != before


def test_cache_namespace_names_the_weights_that_are_loaded(tmp_path):
    made = ModelScopeEmbeddings("bge-base-zh", path=tiny_bert(tmp_path / "a"), device="cpu", dtype="float32")
    vectors, before = made.embed_documents(["茶"]), made.cache_namespace
    (tiny_bert(tmp_path / "b", seed=1) / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    assert (made.embed_documents(["茶"]), made.cache_namespace) == (vectors, before)
    made.unload()
    assert made.cache_namespace != before
    assert made.embed_documents(["茶"]) != vectors


def test_cache_namespace_says_what_auto_means_here():
    found = {
        name: ModelScopeEmbeddings("bge-base-zh", device="cpu", dtype=name).cache_namespace
        for name in ("auto", "float32", "bfloat16")
    }
    assert found["auto"] == found["bfloat16" if cpu_computes_bfloat16() else "float32"]
    assert found["float32"] != found["bfloat16"]


def test_cache_namespace_is_short_and_safe_in_file_names(tmp_path):
    folder = tmp_path / "路 径:*?"
    folder.mkdir()
    for made in (ModelScopeEmbeddings("bge-base-zh", path=folder), ModelScopeEmbeddings("e5-small-zh")):
        assert re.fullmatch(r"[a-zA-Z0-9.-]{1,90}", made.cache_namespace)


def test_files_cache_documents_and_queries(embeddings, tmp_path, monkeypatch):
    documents, queries = LocalFileStore(tmp_path / "documents"), LocalFileStore(tmp_path / "queries")
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings, documents, namespace=embeddings.cache_namespace, query_embedding_cache=queries,
        key_encoder="sha256",
    )  # fmt: skip
    first, query = cached.embed_documents(TEXTS[:2]), cached.embed_query(TEXTS[0])
    np.testing.assert_allclose(first, embeddings.embed_documents(TEXTS[:2]), atol=1e-6)
    np.testing.assert_allclose(query, embeddings.embed_query(TEXTS[0]), atol=1e-6)
    assert (len(list(documents.yield_keys())), len(list(queries.yield_keys()))) == (2, 1)
    monkeypatch.setattr(embeddings, "_load", None)
    assert cached.embed_documents(TEXTS[:2]) == first
    assert cached.embed_query(TEXTS[0]) == query


def test_repr_and_dumps_hold_no_secret(monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    made = ModelScopeEmbeddings(**OPTIONS)
    assert "secret" not in repr(made) + made.model_dump_json()


def test_a_vector_store_finds_the_right_document(embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_texts(["绿茶要用八十度的水冲泡", "猫喜欢睡觉", "火车票可以退票"], ids=["tea", "cat", "train"])
    assert store.similarity_search("怎么泡茶", k=1)[0].id == "tea"


def test_unload_gives_the_weights_back_and_the_next_call_loads_again():
    made = ModelScopeEmbeddings(**OPTIONS, private=True)
    before = made.embed_query("茶")
    made.unload()
    assert made.embed_query("茶") == before
    made.unload()
