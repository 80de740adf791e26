"""What is too long or too much: cut, refused, or sent in smaller requests."""

import json

import numpy as np
import pytest

import zh_retrieval as zr
from tests.remote.stub import described, own, reply, serving, vector, vectors_of
from tests.remote.test_foreign import openai, tei

LONG = "茶" * 5000


def vllm(limit=512, most=None, cuts=False):
    """Answer as vLLM does: what is too long is refused unless the request says to cut it; 413 beyond `most` texts."""
    plain = openai(["bge-base-zh", "bge-reranker-large"])

    def answer(path, headers, body):
        if path == "/v1/models":
            return plain(path, headers, body)
        texts = body.get("input") or body["documents"]
        if most and len(texts) > most:
            return reply({"error": {"message": "too many", "type": "BadRequestError"}}, 413)
        if not cuts and "truncate_prompt_tokens" not in body and max(map(len, texts)) > limit:
            said = f"This model's maximum context length is {limit} tokens."
            return reply({"error": {"message": said, "type": "BadRequestError", "code": 400}}, 400)
        assert body.get("truncate_prompt_tokens", 1) <= limit
        return plain(path, headers, body)

    return answer


def test_openai_cuts_in_vllms_words_and_only_where_something_may_be_too_long():
    with (
        serving(vllm()) as (url, stub),
        zr.load_encoder("bge-base-zh", base_url=url, dialect="openai") as handle,
    ):
        assert handle.encode_documents([LONG, "茶"]).shape == (2, 768)
        handle.encode_documents(["茶"])
    bodies = [body for _, path, _, body in stub.asked if path.endswith("embeddings")]
    assert [body.get("truncate_prompt_tokens") for body in bodies] == [512, None]


def test_openai_rerank_cuts_too():
    with (
        serving(vllm()) as (url, stub),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai") as handle,
    ):
        handle.score([("茶", "好茶"), ("茶", LONG)])
    assert stub.asked[-1][3]["truncate_prompt_tokens"] == 512


@pytest.mark.parametrize("load", [zr.load_encoder, zr.load_reranker])
def test_overflow_error_is_kept_by_an_openai_server_or_refused(load):
    name = "bge-base-zh" if load is zr.load_encoder else "bge-reranker-large"
    there = {"dialect": "openai", "overflow": "error"}
    with serving(vllm(cuts=True)) as (url, _), pytest.raises(zr.ConfigError, match="overflow='error' cannot be kept"):
        load(name, base_url=url, **there)
    with serving(vllm()) as (url, _), load(name, base_url=url, **there) as handle:
        embeds = load is zr.load_encoder
        call, texts = (
            (handle.encode_documents, ["茶", LONG]) if embeds else (handle.score, [("茶", "水"), ("茶", LONG)])
        )
        with pytest.raises(zr.InputError, match=r"\[1\].*maximum context length"):
            call(texts)


@pytest.mark.parametrize("overflow", ["truncate", "error"])
def test_overflow_reaches_tei(overflow):
    options = {"dialect": "tei", "overflow": overflow}
    with serving(tei()) as (url, stub), zr.load_encoder("bge-base-zh", base_url=url, **options) as handle:
        handle.encode_documents(["茶"])
        assert stub.asked[-1][3]["truncate"] is (overflow == "truncate")
    server = tei("reranker", "BAAI/bge-reranker-large")
    with serving(server) as (url, stub), zr.load_reranker("bge-reranker-large", base_url=url, **options) as handle:
        handle.score([("茶", "好茶")])
        assert stub.asked[-1][3]["truncate"] is (overflow == "truncate")


def test_the_text_that_a_server_refuses_is_named():
    def one_by_one(path, headers, body):
        if path == "/info":
            return tei()(path, headers, body)
        if any(len(text) > 512 for text in body["inputs"]):
            return reply({"error": "`inputs` must have less than 512 tokens. Given: 5002"}, 422)
        return reply([vector(text).tolist() for text in body["inputs"]])

    options = {"dialect": "tei", "overflow": "error"}
    with (
        serving(one_by_one) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, **options) as handle,
        pytest.raises(zr.InputError, match=r"texts\[3\].*Given: 5002"),
    ):
        handle.encode_documents(["茶", "水", "酒", LONG, "茶"])


def test_too_many_texts_are_sent_in_smaller_requests():
    texts = [f"第{number}种" for number in range(10)]
    with serving(vllm(most=3)) as (url, _), zr.load_encoder("bge-base-zh", base_url=url, dialect="openai") as handle:
        np.testing.assert_allclose(handle.encode_documents(texts), [vector(text) for text in texts], atol=1e-6)
    limit = [2048]

    def shrinking(body):
        if len(body["texts"]) > limit[0]:
            return reply({"error": {"message": "more than max_texts=2"}}, 400)
        return vectors_of(body["texts"])

    large = described(limits={"max_texts": 2048, "max_body_bytes": 1_000_000})
    with serving(own(shrinking, models=large)) as (url, _), zr.load_encoder("bge-base-zh", base_url=url) as handle:
        limit[0] = 2  # started again with other settings
        np.testing.assert_allclose(handle.encode_documents(texts), [vector(text) for text in texts], atol=1e-6)


@pytest.mark.parametrize("text", ['\t\\"\n' * 50, "\x01\x1f\x7f" * 50, "茶😀" * 50])
@pytest.mark.parametrize("instruction", [None, "\x02" * 1000])
def test_bodies_are_counted_as_they_are_sent(text, instruction):
    small = described(limits={"max_texts": 2048, "max_body_bytes": 20_000})
    with serving(own(models=small)) as (url, stub), zr.load_encoder("bge-base-zh", base_url=url) as handle:
        handle.encode_queries([text] * 90, instruction=instruction)
    sent = [int(headers["content-length"]) for _, path, headers, _ in stub.asked if path.endswith("embed")]
    assert sum(sent) >= 90 * len(json.dumps(text, ensure_ascii=False).encode())
    assert max(sent) <= 20_000
