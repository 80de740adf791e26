"""The right model or a refusal: what a server calls its models is compared with what was asked for."""

import pytest

import zh_retrieval as zr
from tests.remote.stub import described, own, reply, serving
from tests.remote.test_foreign import openai, tei


def listed(*cards):
    return lambda *_: reply({"data": list(cards)})


@pytest.mark.parametrize(
    "only",
    ["jinaai/jina-embeddings-v2-base-zh", "gpt-4o", "BAAI/bge-m3", "my-copy", "/data/my-copy", "/x/bge-large-zh"],
)
def test_the_only_model_of_an_openai_server_is_not_taken_for_another(only):
    with serving(openai([only])) as (url, _):
        with pytest.raises(zr.UnknownModelError, match=r"It serves: .*served_model_name="):
            zr.load_encoder("bge-base-zh", base_url=url, dialect="openai")
        with zr.load_encoder("bge-base-zh", base_url=url, dialect="openai", served_model_name=only) as handle:
            assert handle.encode_documents(["茶"]).shape == (1, 768)  # the user says that it is


@pytest.mark.parametrize(
    "card",
    [
        {"id": "embed", "root": "BAAI/bge-base-zh-v1.5"},  # vLLM under --served-model-name
        {"id": "embed", "root": "/data/hub/models--BAAI--bge-base-zh-v1.5/snapshots/f03589ce"},
        {"id": "embed", "model_name": "bge-base-zh-v1.5"},  # Xinference under a uid
        {"id": "/models/AI-ModelScope/bge-base-zh-v1___5"},
        {"id": "someone/bge-base-zh"},
    ],
)
def test_a_model_is_known_by_what_it_was_made_of(card):
    with serving(listed({"id": "gpt-4o", "root": "gpt-4o"}, card)) as (url, _):
        with zr.load_encoder("bge-base-zh", base_url=url, dialect="openai") as handle:
            assert handle.served.id == card["id"]
        with pytest.raises(zr.UnknownModelError):
            zr.load_encoder("bge-large-zh", base_url=url, dialect="openai")


def test_a_reranker_is_not_taken_for_its_neighbour():
    with serving(openai(["bge-reranker-v2-m3"])) as (url, _), pytest.raises(zr.UnknownModelError):
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai")
    with serving(tei("reranker", "BAAI/bge-reranker-v2-m3")) as (url, _), pytest.raises(zr.UnknownModelError):
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="tei")


def test_a_recipe_of_ones_own_is_served_under_the_hub_id_of_its_weights():
    from dataclasses import replace

    mine = replace(zr.get_spec("bge-base-zh"), name="mine", aliases=(), instruction="找：")
    with serving(openai(["BAAI/bge-base-zh-v1.5"])) as (url, _):
        zr.load_encoder(mine, base_url=url, dialect="openai").close()


def test_a_tei_server_is_known_by_its_name_or_its_folder_or_by_what_the_user_says(caplog):
    with serving(tei(model="someone/something")) as (url, _):
        with pytest.raises(zr.UnknownModelError, match="served_model_name='someone/something'"):
            zr.load_encoder("bge-base-zh", base_url=url, dialect="tei")
        there = {"base_url": url, "dialect": "tei", "served_model_name": "someone/something"}
        zr.load_encoder("bge-base-zh", **there).close()
    with serving(tei(model="/data/bge-base-zh-v1.5")) as (url, _):
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei").close()
        assert not caplog.records
        with pytest.raises(zr.UnknownModelError):
            zr.load_encoder("bge-large-zh", base_url=url, dialect="tei")
    with serving(tei(model="/repository")) as (url, _):  # says nothing: taken, and said
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei").close()
        assert "does not say whether it is bge-base-zh-v1.5" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"dimension": 1024}, zr.ConfigError),
        ({"dimension": -1}, zr.RemoteError),
        ({"dimension": "768"}, zr.RemoteError),
        ({"max_length": "abc"}, zr.RemoteError),
        ({"max_length": 1e400}, zr.RemoteError),
        ({"limits": {"max_texts": 0, "max_body_bytes": 10}}, zr.RemoteError),
        ({"weights": 5}, zr.RemoteError),
        ({"task": "rerank"}, zr.WrongTaskError),
    ],
)
def test_a_handshake_that_says_what_cannot_be_is_refused(changes, error):
    with serving(own(models=described(**changes))) as (url, _), pytest.raises(error):
        zr.load_encoder("bge-base-zh", base_url=url)


def test_options_of_a_server_without_one_are_said():
    for option in ({"dialect": "tei"}, {"served_model_name": "x"}, {"score_scale": "logit"}):
        with pytest.raises(zr.ConfigError, match="says something of a server"):
            zr.load_encoder("e5-small-zh", **option)
