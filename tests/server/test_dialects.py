"""The dialects as recorded requests ask them: shapes, sides, errors and status codes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.server.settings import Settings

KEY = {"authorization": "Bearer k"}
MODEL = "e5-small-zh"
TEXTS = ["绿茶", "红茶"]
LONG = "好" * 3000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    models = (MODEL, f"bge-reranker-large={folder}")
    settings = Settings(
        models, {"dtype": "float32"}, ("k", "second"), max_body_bytes=1_000_000, cors_origins=("https://a.b",)
    )
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def encoder() -> Iterator[zr.Encoder]:
    with zr.load_encoder(MODEL, dtype="float32") as loaded:
        yield loaded


def ask(server: Server, path: str, body: Any) -> httpx.Response:
    return httpx.post(server.url + path, content=json.dumps(body), headers=KEY, timeout=60)


def vectors(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    body = response.json()
    return np.array([row["embedding"] for row in body["data"]] if isinstance(body, dict) else body, dtype=np.float32)


def test_base64_and_floats_are_the_same_vectors(server: Server, encoder: zr.Encoder) -> None:
    body = {"model": MODEL, "input": TEXTS}
    found = ask(server, "/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    decoded = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in found["data"]])
    np.testing.assert_array_equal(decoded, vectors(ask(server, "/embeddings", body)))
    np.testing.assert_allclose(decoded, encoder.encode_documents(TEXTS), atol=1e-6)
    assert [row["index"] for row in found["data"]] == [0, 1]
    tokens = [[token["id"] for token in row] for row in ask(server, "/tokenize", {"inputs": TEXTS}).json()]
    prompt = len(tokens[0]) + len(tokens[1])
    assert found["usage"]["prompt_tokens"] >= prompt  # the document prompt counts too
    assert (found["object"], found["model"]) == ("list", MODEL)


def test_token_ids_are_refused_with_the_fix(server: Server) -> None:
    for ids in ([[12579, 233, 104]], [12579, 233]):
        response = ask(server, "/v1/embeddings", {"model": MODEL, "input": ids})
        error = response.json()["error"]
        assert response.status_code == 400
        assert (error["code"], error["param"], error["type"]) == (
            "token_ids_not_supported", "input", "invalid_request_error",
        )  # fmt: skip
        assert "check_embedding_ctx_length=False" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "side"),
    [
        ("/v1/embeddings", {"model": f"{MODEL}-query", "input": TEXTS}, "query"),
        ("/v1/embeddings", {"model": MODEL, "input": TEXTS, "input_type": "query"}, "query"),
        ("/v1/embeddings", {"model": MODEL, "input": TEXTS, "input_type": "search_query"}, "query"),
        ("/v1/embeddings", {"input": TEXTS, "task": "retrieval.query"}, "query"),
        ("/embed", {"inputs": TEXTS, "prompt_name": "query"}, "query"),
        ("/", {"inputs": TEXTS, "prompt_name": "query"}, "query"),
        ("/v1/embeddings", {"model": MODEL, "input": TEXTS}, "document"),
        ("/v1/embeddings", {"model": f"{MODEL}-document", "input": TEXTS}, "document"),
        ("/v1/embeddings", {"model": f"{MODEL}-passage", "input": TEXTS}, "document"),
        ("/v1/embeddings", {"model": MODEL, "input": TEXTS, "input_type": "passage"}, "document"),
        ("/embed", {"inputs": TEXTS}, "document"),
    ],
)
def test_sides(server: Server, encoder: zr.Encoder, path: str, body: dict[str, Any], side: str) -> None:
    response = ask(server, path, body)
    wanted = encoder.encode_queries(TEXTS) if side == "query" else encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(vectors(response), wanted, atol=1e-6)
    assert response.headers["x-side"] == side


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": f"{MODEL}-query", "input": "好", "input_type": "document"}, "contradicts"),
        ({"model": MODEL, "input": "好", "input_type": "qurey"}, "search_query"),
        ({"model": MODEL, "input": ["好", "", "\ud83d"]}, "input["),
        ({"model": MODEL, "input": ""}, "input"),
        ({"model": MODEL, "input": []}, "input"),
        ({"model": MODEL, "input": None}, "input"),
        ({"model": MODEL, "input": [1, "a"]}, "input[0]"),
        ({"model": MODEL, "input": {"a": 1}}, "an object"),
        ({"model": MODEL, "input": "好", "encoding_format": "md5"}, "['float', 'base64']"),
        ({"model": MODEL, "input": ["好"] * 2049}, "max_texts=2048"),
        ({"model": MODEL, "input": "好", "dimensions": 100}, "dimension"),
        ({"model": "bge-reranker-large", "input": "好"}, "reranking"),
        (["好"], "object"),
    ],
)
def test_what_cannot_be_right_is_refused(server: Server, body: Any, says: str) -> None:
    response = ask(server, "/v1/embeddings", body)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_model_that_is_not_served_is_an_error_with_the_list(server: Server) -> None:
    response = ask(server, "/v1/embeddings", {"model": "bge-base-zh", "input": "好"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


def test_models_are_listed_with_their_sides(server: Server) -> None:
    listed = [entry["id"] for entry in server.get("/v1/models", headers=KEY).json()["data"]]
    assert listed == [MODEL, f"{MODEL}-query", f"{MODEL}-document", "bge-reranker-large"]
    assert server.get(f"/v1/models/{MODEL}", headers=KEY).json()["id"] == MODEL
    assert server.get("/v1/models/nope", headers=KEY).status_code == 404


def test_every_spelling_of_rerank(server: Server) -> None:
    query, documents = "好茶", ["绿茶", "红茶好", "长城"]
    raw = ask(server, "/rerank", {"query": query, "texts": documents, "raw_scores": True}).json()
    default = ask(server, "/rerank", {"query": query, "texts": documents, "raw_scores": False}).json()
    by_index = {entry["index"]: entry["score"] for entry in raw}
    for entry in default:
        assert entry["score"] == pytest.approx(1 / (1 + np.exp(-by_index[entry["index"]])), abs=1e-6)
        assert "text" not in entry
    assert [entry["score"] for entry in default] == sorted((entry["score"] for entry in default), reverse=True)
    body = {"query": query, "documents": documents}
    first = ask(server, "/v1/rerank", {**body, "top_n": 2, "return_documents": True}).json()["results"]
    assert len(first) == 2
    assert first[0]["document"]["text"] == documents[first[0]["index"]]
    for more in (
        {"max_tokens_per_doc": None, "top_n": None}, {"return_documents": "true", "return_len": "true"}, {"top_n": 0},
        {"top_n": 99}, {"documents": [{"text": text} for text in documents]}, {"model": "bge-reranker-large"},
    ):  # fmt: skip
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            response = ask(server, path, {**body, **more})
            assert response.status_code == 200, response.text
            results = response.json()["results"]
            assert [entry["index"] for entry in results] == [entry["index"] for entry in default]
            assert [entry["relevance_score"] for entry in results] == pytest.approx([e["score"] for e in default])


def test_refused_reranking_speaks_the_clients_dialect(server: Server) -> None:
    assert "detail" in ask(server, "/v1/rerank", {"query": "好", "documents": []}).json()
    assert ask(server, "/v1/rerank", {"query": "好", "documents": []}).status_code == 400
    tei = ask(server, "/rerank", {"query": "好", "texts": [3]})
    assert (tei.status_code, tei.json()["error_type"]) == (422, "Validation")
    for body in ({"query": "好"}, {"query": "好", "texts": ["a"], "documents": ["a"]}):
        response = ask(server, "/rerank", body)
        assert response.status_code in (400, 422)
        assert "documents" in response.text
        assert "texts" in response.text


def test_scores_in_the_order_of_the_input(server: Server) -> None:
    single = ask(server, "/score", {"text_1": "好茶", "text_2": ["绿茶", "红茶"]}).json()["data"]
    paired = ask(server, "/v1/score", {"queries": ["好茶", "好茶"], "documents": ["绿茶", "红茶"]}).json()["data"]
    assert [entry["score"] for entry in single] == pytest.approx([entry["score"] for entry in paired])
    assert [entry["index"] for entry in single] == [0, 1]
    assert all(0 <= entry["score"] <= 1 for entry in single)
    assert ask(server, "/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}).status_code == 400


@pytest.mark.slow
def test_many_inputs_come_in_order(server: Server, encoder: zr.Encoder) -> None:
    texts = [f"第{number}号茶" for number in range(600)]
    found = vectors(ask(server, "/v1/embeddings", {"model": MODEL, "input": texts}))
    np.testing.assert_allclose(found, encoder.encode_documents(texts), atol=1e-5)


def test_more_inputs_than_the_limit_are_refused_by_name(server: Server) -> None:
    response = ask(server, "/v1/embeddings", {"model": MODEL, "input": ["好"] * 2049})
    assert response.status_code == 400
    assert "max_texts=2048" in response.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused_by_name(server: Server) -> None:
    response = ask(server, "/v1/embeddings", {"model": MODEL, "input": ["好" * 400_000]})
    assert response.status_code == 413
    assert "max_body_bytes=1000000" in response.json()["error"]["message"]


def test_cuts_are_visible_or_refused(server: Server) -> None:
    response = ask(server, "/v1/embeddings", {"model": MODEL, "input": ["好", LONG]})
    assert response.headers["x-truncated"] == "1"
    assert response.json()["usage"]["truncated_inputs"] == 1
    assert response.json()["usage"]["truncated_tokens"] > 500
    for path, name in (("/v1/embeddings", "input"), ("/embed", "inputs")):
        refused = ask(server, path, {name: ["好", LONG], "truncate": False})
        assert refused.status_code == 422
        assert f"{name}[1]" in refused.text
        assert "512" in refused.text
    assert ask(server, "/rerank", {"query": "好", "texts": [LONG], "truncate": False}).status_code == 422


@pytest.mark.parametrize("header", [None, "k", "Bearer wrong", "Bearer  k", "Basic k", "Bearer"])
def test_a_wrong_key_is_refused(server: Server, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    response = server.post("/v1/embeddings", {"model": MODEL, "input": "好"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert server.get("/metrics", headers=headers).status_code == 401


def test_every_key_is_let_in_and_health_needs_none(server: Server) -> None:
    for header in ("Bearer k", "bearer second"):
        response = server.post("/v1/embeddings", {"input": "好"}, headers={"authorization": header})
        assert response.status_code == 200
    for path in ("/livez", "/readyz", "/health", "/ping"):
        assert server.get(path).status_code == 200
    assert "'second'" not in repr(server.app.settings)
    assert "'k'" not in repr(server.app.settings)


def test_a_web_page_that_is_allowed_may_ask(server: Server) -> None:
    def preflight(origin: str) -> httpx.Response:
        headers = {
            "origin": origin, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }  # fmt: skip
        return httpx.options(server.url + "/v1/embeddings", headers=headers)

    assert preflight("https://a.b").status_code == 200
    assert preflight("https://a.b").headers["access-control-allow-origin"] == "https://a.b"
    assert "access-control-allow-origin" not in preflight("https://evil.example").headers


def test_request_ids_and_metrics(server: Server) -> None:
    response = server.post("/embed", {"inputs": LONG}, headers={**KEY, "x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    text = server.get("/metrics", headers=KEY).text
    for name in (
        'zh_retrieval_requests_total{route="/embed",status="200"}', "zh_retrieval_queue_tokens",
        "zh_retrieval_truncated_inputs_total", "zh_retrieval_stage_seconds", "zh_retrieval_errors_total",
    ):  # fmt: skip
        assert name in text
