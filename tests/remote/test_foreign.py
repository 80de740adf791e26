"""Remote handles against what TEI, vLLM, Xinference and Infinity answer; the recipe's prompts come from here."""

import base64

import numpy as np
import pytest

import zh_retrieval as zr
from tests.remote.stub import reply, serving, vector

PROMPT = zr.get_spec("bge-base-zh").format_query("")
PAIRS = [("茶", "好茶"), ("水", "茶"), ("茶", "茶树茶叶")]
LOGITS = [2.0, -3.0, 0.5]


def long_vector(text):
    return 3 * vector(text)  # not of length 1: some servers do not normalise


def logit(text):
    """Return the score of a document: one of PAIRS, or one that is asked only to find out the scale."""
    known = [document for _, document in PAIRS]
    return LOGITS[known.index(text)] if text in known else 8.0 if "北京" in text or "leaves" in text else -8.0


def tei(kind="embedding", model="BAAI/bge-base-zh-v1.5", refused=None, turned=False):
    """Answer as text-embeddings-inference 1.8 and 1.9 do."""

    def answer(path, headers, body):
        if path == "/info":
            inner = (
                {"pooling": "cls"}
                if kind == "embedding"
                else {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
            )
            return reply({
                "model_id": model, "model_sha": "abc", "model_dtype": "float16", "model_type": {kind: inner},
                "max_concurrent_requests": 512, "max_input_length": 512, "max_batch_tokens": 16384,
                "max_batch_requests": None, "max_client_batch_size": 2, "auto_truncate": True,
                "tokenization_workers": 4, "version": "1.9.3", "sha": None, "docker_label": None,
            })  # fmt: skip
        if refused:
            return reply(
                {"error": "`inputs` must have less than 512 tokens. Given: 900", "error_type": "Validation"}, refused
            )
        if path == "/embed":
            return reply([long_vector(text).tolist() for text in body["inputs"]])
        scores = [logit(text) for text in body["texts"]]
        ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
        return reply([{"index": index, "score": scores[index]} for index in ranked][: 1 if turned else None])

    return answer


def test_tei_embeds_with_the_recipes_prompt():
    texts = ["茶", "红茶", "绿茶"]
    with serving(tei()) as (url, stub), zr.load_encoder("bge-base-zh", base_url=url, dialect="tei") as handle:
        queries, documents = handle.encode_queries(texts), handle.encode_documents(texts)
        handle.encode_queries(["茶"], instruction="")
    bodies = [body for _, path, _, body in stub.asked if path == "/embed"]
    assert sorted(text for body in bodies[:2] for text in body["inputs"]) == sorted(PROMPT + text for text in texts)
    assert sorted(text for body in bodies[2:4] for text in body["inputs"]) == sorted(texts)
    assert bodies[4]["inputs"] == ["茶"]
    assert all(body["truncate"] is True for body in bodies)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(documents, [vector(text) for text in texts], atol=1e-6)


def test_tei_reranks_in_raw_logits_one_request_a_query():
    server = tei("reranker", "BAAI/bge-reranker-large")
    with serving(server) as (url, stub), zr.load_reranker("bge-reranker-large", base_url=url, dialect="tei") as handle:
        assert handle.score(PAIRS).tolist() == LOGITS
    bodies = [body for _, path, _, body in stub.asked if path == "/rerank"]
    assert all(body["raw_scores"] is True for body in bodies)
    assert {body["query"] for body in bodies} == {"茶", "水"}


@pytest.mark.parametrize("status", [413, 422])
def test_tei_of_either_age_says_that_a_text_is_too_long(status):
    with (
        serving(tei(refused=status)) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei") as handle,
        pytest.raises(zr.InputError, match="less than 512 tokens"),
    ):
        handle.encode_documents(["茶"])


def test_tei_with_another_model_or_task_is_refused():
    with (
        serving(tei(model="BAAI/bge-large-zh-v1.5")) as (url, _),
        pytest.raises(zr.UnknownModelError, match="bge-large"),
    ):
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei")
    with serving(tei("reranker")) as (url, _), pytest.raises(zr.UnknownModelError, match="'reranker'"):
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei")
    with serving(tei(model="/data/my-copy")) as (url, _):  # a folder's name says nothing
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei").close()


def test_scores_that_are_missing_are_an_error():
    server = tei("reranker", "BAAI/bge-reranker-large", turned=True)
    with (
        serving(server) as (url, _),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="tei") as handle,
        pytest.raises(zr.RemoteError, match="one for each document"),
    ):
        handle.score([PAIRS[0], PAIRS[2]])


def openai(ids=("BAAI/bge-base-zh-v1.5",), *, floats=False, shuffled=False, scale="sigmoid", width=768):
    """Answer as vLLM (base64) or Xinference (always numbers) do."""

    def answer(path, headers, body):
        if path == "/v1/models":
            return reply({"object": "list", "data": [{"id": name, "object": "model"} for name in ids]})
        if path == "/v1/embeddings":
            data = []
            for index, text in enumerate(body["input"]):
                found = long_vector(text)[:width]
                coded = found.tolist() if floats else base64.b64encode(found.astype("<f4").tobytes()).decode()
                data.append({"object": "embedding", "index": index, "embedding": coded})
            return reply({"object": "list", "data": data[::-1] if shuffled else data, "usage": {"total_tokens": 1}})
        scores = [logit(text) for text in body["documents"]]
        given = [1 / (1 + np.exp(-score)) for score in scores] if scale == "sigmoid" else scores
        results = [{"index": index, "relevance_score": float(score)} for index, score in enumerate(given)]
        return reply({"id": "1", "results": results[::-1], "usage": {"total_tokens": 1}})

    return answer


@pytest.mark.parametrize(("floats", "shuffled"), [(False, False), (True, False), (False, True)])
def test_openai_embeds_with_the_recipes_prompt(floats, shuffled):
    texts = ["茶", "红茶"]
    server = openai(floats=floats, shuffled=shuffled)
    with (
        serving(server) as (url, stub),
        zr.load_encoder("bge-base-zh", base_url=f"{url}/v1", dialect="openai") as handle,
    ):
        queries, documents = handle.encode_queries(texts), handle.encode_documents(texts)
    bodies = [body for _, path, _, body in stub.asked if path == "/v1/embeddings"]
    assert [body["input"] for body in bodies] == [[PROMPT + text for text in texts], texts]
    assert {body["model"] for body in bodies} == {"BAAI/bge-base-zh-v1.5"}
    np.testing.assert_allclose(queries, [vector(PROMPT + text) for text in texts], atol=1e-6)
    np.testing.assert_allclose(documents, [vector(text) for text in texts], atol=1e-6)


def test_openai_picks_the_model_by_any_of_its_names_or_says_what_there_is():
    for ids in (["a", "bge-base-zh-v1.5"], ["bge-base-zh", "b"], ["x/BGE-base-zh-v1.5"]):
        with serving(openai(ids)) as (url, _):
            zr.load_encoder("bge-base-zh", base_url=url, dialect="openai").close()
    with serving(openai(["a", "b"])) as (url, _), pytest.raises(zr.UnknownModelError, match="It serves: a, b"):
        zr.load_encoder("bge-base-zh", base_url=url, dialect="openai")


def test_openai_vectors_of_another_length_are_refused():
    with (
        serving(openai(width=512)) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, dialect="openai") as handle,
        pytest.raises(zr.ConfigError, match="vectors of 512 numbers"),
    ):
        handle.encode_documents(["茶"])


@pytest.mark.parametrize("scale", ["sigmoid", "raw"])
def test_rerank_scores_become_logits_again(scale):
    server = openai(["bge-reranker-large"], scale=scale)
    with serving(server) as (url, _), zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai") as handle:
        np.testing.assert_allclose(handle.score([PAIRS[0], PAIRS[2]]), [2.0, 0.5], atol=1e-5)


@pytest.mark.parametrize("dialect", ["tei", "openai"])
def test_what_a_dialect_cannot_do_is_said(dialect):
    with pytest.raises(zr.ConfigError, match="does not score by query-likelihood"):
        zr.load_reranker("rankinggpt", base_url="http://127.0.0.1:9", dialect=dialect)
    server = tei(model="jinaai/jina-embeddings-v2-base-zh") if dialect == "tei" else openai(["jina-base-zh"])
    with (
        serving(server) as (url, _),
        zr.load_encoder("jina-base-zh", base_url=url, dialect=dialect) as handle,
        pytest.raises(zr.ConfigError, match="late chunking"),
    ):
        handle.encode_chunks("茶很好", [(0, 1)])


KEY_THAT_IS_REPEATED = "sk-only-for-this-test"


@pytest.mark.parametrize("status", [200, 400, 404, 413, 500])
@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": f"Incorrect API key provided: {KEY_THAT_IS_REPEATED}"}},
        {"error": "x" * 990 + KEY_THAT_IS_REPEATED, "error_type": "Validation"},
        {"detail": [{"input": KEY_THAT_IS_REPEATED}]},
        [KEY_THAT_IS_REPEATED],
        f"no JSON: {KEY_THAT_IS_REPEATED}",
    ],
)
def test_a_key_that_the_server_repeats_is_in_no_message(status, said):
    def answer(path, headers, body):
        if path == "/info":
            return tei()(path, headers, body)
        return (status, {}, said.encode()) if isinstance(said, str) else reply(said, status)

    with (
        serving(answer) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei", api_key=KEY_THAT_IS_REPEATED) as handle,
        pytest.raises(zr.ZhRetrievalError) as caught,
    ):
        handle.encode_documents(["茶"])
    assert KEY_THAT_IS_REPEATED[:9] not in str(caught.value)


WORDS = ["0.5", True, None, {}, [0.5]]  # JSON, but no numbers


@pytest.mark.parametrize("value", WORDS, ids=repr)
def test_what_is_no_number_is_no_vector(value):
    def answer(path, headers, body):
        return tei()(path, headers, body) if path == "/info" else reply([[value] * 768])

    with (
        serving(answer) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, dialect="tei") as handle,
        pytest.raises(zr.RemoteError, match=r"numbers of one length|vectors of shape"),
    ):
        handle.encode_documents(["茶"])


@pytest.mark.parametrize("value", WORDS, ids=repr)
def test_what_is_no_number_is_no_score(value):
    info = tei("reranker", "BAAI/bge-reranker-large")

    def answer(path, headers, body):
        return info(path, headers, body) if path == "/info" else reply([{"index": 0, "score": value}])

    with (
        serving(answer) as (url, _),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="tei") as handle,
        pytest.raises(zr.RemoteError, match="one for each document"),
    ):
        handle.score([("茶", "茶")])
