"""One argument makes every adapter remote; its key shows nowhere, and no torch is imported."""

import asyncio
import copy
import json
import logging
import pickle

import pytest
from pydantic import SecretStr

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.remote.stub import described, own, reply, serving, vector
from zh_retrieval.options import LoadOptions

KEY = "sk-geheim-4711"
ENCODERS = (lc.ModelScopeEmbeddings, li.ModelScopeEmbedding)
RERANKERS = (lc.BGEReranker, li.BGEReranker)


def guarded(answer):
    """Ask for the key before anything else."""

    def checked(path, headers, body):
        if headers.get("authorization") != f"Bearer {KEY}":
            return reply({"error": {"type": "authentication_error", "message": "no"}}, 401)
        return answer(path, headers, body)

    return checked


def test_embeddings_of_both_frameworks_are_remote_by_one_argument():
    with serving(guarded(own())) as (url, stub):
        chain = lc.ModelScopeEmbeddings("bge-base-zh", base_url=url, api_key=KEY)
        assert chain.embed_query("茶") == pytest.approx(vector("茶").tolist())
        assert asyncio.run(chain.aembed_documents(["茶", "红茶"]))[1] == pytest.approx(vector("红茶").tolist())
        index = li.ModelScopeEmbedding("bge-base-zh", base_url=url, api_key=SecretStr(KEY))
        assert index.get_text_embedding("茶") == pytest.approx(vector("茶").tolist())
        assert asyncio.run(index.aget_query_embedding("茶")) == pytest.approx(vector("茶").tolist())
    sides = [body["side"] for _, _, _, body in stub.asked if body]
    assert sides == ["query", "document", "document", "query"]


def test_rerankers_of_both_frameworks_are_remote_by_one_argument():
    from langchain_core.documents import Document
    from llama_index.core.schema import NodeWithScore, TextNode

    texts = ["好好茶", "茶", "好茶"]
    with serving(guarded(own(models=described("bge-reranker-large")))) as (url, _):
        found = lc.BGEReranker(base_url=url, api_key=KEY, top_n=2).compress_documents(
            [Document(page_content=text) for text in texts], "茶"
        )
        assert [(each.page_content, each.metadata["relevance_score"]) for each in found] == [
            ("茶", 0.0),
            ("好茶", -1.0),
        ]
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        kept = li.BGEReranker(base_url=url, api_key=KEY, top_n=2).postprocess_nodes(nodes, query_str="茶")
        assert [node.node.text for node in kept] == ["茶", "好茶"]


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", KEY)
    with serving(guarded(own())) as (url, _):
        assert lc.ModelScopeEmbeddings("bge-base-zh", base_url=url).embed_query("茶")
        monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", "another")
        with pytest.raises(zr.ConfigError, match="refused the key") as caught:
            zr.load_encoder("bge-base-zh", base_url=url)
        assert "another" not in str(caught.value)
        monkeypatch.delenv("ZH_RETRIEVAL_API_KEY")
        with pytest.raises(zr.ConfigError, match="asks for a key"):
            zr.load_encoder("bge-base-zh", base_url=url)


@pytest.mark.parametrize("cls", ENCODERS + RERANKERS)
def test_a_key_is_in_no_repr_dump_pickle_or_log(cls, caplog):
    model = "bge-base-zh" if cls in ENCODERS else "bge-reranker-large"
    settings = cls(model=model, base_url="http://127.0.0.1:9", api_key=KEY)
    dumps = [repr(settings), str(settings), json.dumps(settings.model_dump(), default=str), settings.model_dump_json()]
    dumps.append(repr(LoadOptions.given(**settings.load_options())))
    if hasattr(settings, "to_dict"):
        dumps.append(json.dumps(settings.to_dict(), default=str))
    assert KEY.encode() not in pickle.dumps(settings)
    with caplog.at_level(logging.DEBUG), pytest.raises(zr.RemoteError) as caught:
        settings.warmup()
    dumps += [caplog.text, repr(caught.value), repr(caught.value.__cause__)]
    assert not [dump for dump in dumps if KEY in dump]
    assert copy.deepcopy(settings).api_key == KEY  # a copy in this process goes on
    assert pickle.loads(pickle.dumps(settings)).api_key is None


@pytest.mark.parametrize("wrong", [4711, "中文-geheim", "line\nbreak", " "])
def test_a_key_that_is_none_is_refused_without_showing_it(wrong):
    for make in (
        lambda: lc.ModelScopeEmbeddings("bge-base-zh", base_url="http://127.0.0.1:9", api_key=wrong),
        lambda: zr.load_encoder("bge-base-zh", base_url="http://127.0.0.1:9", api_key=wrong),
    ):
        with pytest.raises(zr.ConfigError, match="api_key must be") as caught:
            make()
        assert str(wrong).strip() not in str(caught.value).replace("api_key must be", "") or not str(wrong).strip()


def test_a_key_in_the_address_is_refused_without_showing_it():
    with pytest.raises(Exception, match="holds a password") as caught:
        lc.ModelScopeEmbeddings("bge-base-zh", base_url=f"http://me:{KEY}@gpu:8080")
    assert KEY not in str(caught.value)


def test_cache_keys_follow_the_weights_not_the_address_or_the_key():
    with (
        serving(guarded(own())) as (one, _),
        serving(own()) as (two, _),
        serving(own(models=described(weights="w2"))) as (three, _),
    ):
        keys = [
            lc.ModelScopeEmbeddings("bge-base-zh", base_url=url, **key).cache_namespace
            for url, key in ((one, {"api_key": KEY}), (two, {}), (three, {}))
        ]
    assert keys[0] == keys[1] != keys[2]
    assert not [key for key in keys if KEY in key]
