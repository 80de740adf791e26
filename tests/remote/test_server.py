"""The same model here and behind `zh-retrieval serve`: one argument, equal results."""

import asyncio

import numpy as np
import pytest

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.server.serving import serving
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeReranker

MODEL = "e5-small-zh"
OPTIONS = {"device": "cpu", "dtype": "float32"}
KEY = "sk-geheim"
TEXTS = [f"第{number}条：绿茶产自浙江，红茶产自福建。" * (1 + number % 7) for number in range(35)]
DOCUMENT = "".join(f"第{number}章讲茶的历史。它的作者住在杭州。" for number in range(40))


@pytest.fixture(scope="module")
def url():
    fake = FakeReranker("bge-reranker-large")
    settings = Settings(models=(MODEL,), options=OPTIONS, keys=(KEY,), max_texts=16, handles={fake.spec.name: fake})
    with serving(settings) as server:
        yield server.url


@pytest.fixture(scope="module")
def remote(url):
    with zr.load_encoder(MODEL, base_url=url, api_key=KEY) as handle:
        yield handle


def test_vectors_are_those_of_this_process(encoder, remote):
    assert remote.dimension == encoder.dimension
    assert remote.max_length == encoder.max_length
    for name in ("encode_queries", "encode_documents"):
        here, there = getattr(encoder, name)(TEXTS), getattr(remote, name)(TEXTS)
        np.testing.assert_allclose(there, here, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(remote.aencode_documents(TEXTS)), encoder.encode_documents(TEXTS), atol=1e-6)


def test_late_chunks_are_those_of_this_process(encoder, remote):
    spans = sentence_spans(DOCUMENT, 60)
    np.testing.assert_allclose(remote.encode_chunks(DOCUMENT, spans), encoder.encode_chunks(DOCUMENT, spans), atol=1e-6)
    assert remote.encode_chunks(DOCUMENT, []).shape == (0, encoder.dimension)


def test_a_chain_is_remote_by_one_argument(url, encoder):
    there = {"base_url": url, "api_key": KEY}
    here = encoder.encode_queries(["绿茶"])[0]
    np.testing.assert_allclose(lc.ModelScopeEmbeddings(MODEL, **there).embed_query("绿茶"), here, atol=1e-6)
    np.testing.assert_allclose(li.ModelScopeEmbedding(MODEL, **there).get_query_embedding("绿茶"), here, atol=1e-6)
    kept = lc.BGEReranker(top_n=1, **there)
    [found] = kept.compress_documents([lc_document(text) for text in ("红酒", "绿茶")], "绿茶")
    assert (found.page_content, found.metadata["relevance_score"]) == ("绿茶", 1.0)


def lc_document(text):
    from langchain_core.documents import Document

    return Document(page_content=text)


def test_what_the_server_refuses_is_our_error(url, remote):
    with pytest.raises(zr.ConfigError, match="refused the key"):
        zr.load_encoder(MODEL, base_url=url, api_key="wrong")
    with pytest.raises(zr.UnknownModelError, match="does not serve bge-base-zh"):
        zr.load_encoder("bge-base-zh", base_url=url, api_key=KEY)
    with pytest.raises(zr.ConfigError, match="instruction"):
        remote.encode_queries(["茶"], instruction="找：")
    with pytest.raises(zr.ZhRetrievalError):
        remote.encode_documents(["茶" * 40_000_000])  # more than one request may hold


def test_cuts_are_told(remote, caplog):
    remote.encode_documents(["茶树" * 2000, "茶"])
    assert "1 of 2 texts were cut to 512 tokens by http://127.0.0.1" in caplog.text
