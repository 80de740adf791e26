"""What applications send that cannot run here, request by request as their sources have it, and what they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker
from zh_retrieval.server.settings import Settings

MODEL = "e5-small-zh"
RERANKER = "bge-reranker-large"
TEXTS = ["绿茶", "红茶"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    with serving(Settings((MODEL, f"{RERANKER}={folder}"), {"dtype": "float32"})) as running:
        yield running


@pytest.fixture(scope="module")
def wanted() -> Iterator[dict[str, np.ndarray]]:
    with zr.load_encoder(MODEL, dtype="float32") as encoder:
        yield {"query": encoder.encode_queries(TEXTS), "document": encoder.encode_documents(TEXTS)}


def embeddings(answer: httpx.Response) -> np.ndarray:
    """Return what clients of OpenAI's dialect read: rows in the order of their index."""
    assert answer.status_code == 200, answer.text
    data = sorted(answer.json()["data"], key=lambda row: row["index"])
    return np.array([row["embedding"] for row in data], np.float32)


def test_dify_openai_compatible(server: Server, wanted: dict[str, np.ndarray]) -> None:
    without_key = {"Authorization": "", "Content-Type": "application/json"}
    body = {"model": MODEL, "input": ["ping"]}
    assert embeddings(server.post("/v1/embeddings", body, headers=without_key)).shape == (1, 384)
    body = {"model": MODEL, "input": TEXTS, "encoding_format": "float"}
    answer = server.post("/v1/embeddings", body, headers=without_key)
    np.testing.assert_allclose(embeddings(answer), wanted["document"], atol=1e-6)
    assert answer.json()["usage"]["prompt_tokens"] == answer.json()["usage"]["total_tokens"] > 0
    for base in ("", "/v1"):
        body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "top_n": 2}
        results = server.post(f"{base}/rerank", body, headers=without_key).json()["results"]
        assert all(0 <= entry["relevance_score"] <= 1 and 0 <= entry["index"] < 2 for entry in results)


def test_dify_tei(server: Server, wanted: dict[str, np.ndarray]) -> None:
    info = server.get("/info").json()
    assert next(iter(info["model_type"])) == "embedding"
    assert type(info["max_input_length"]) is int
    assert type(info["max_client_batch_size"]) is int
    tokens = server.post("/tokenize", {"inputs": ["str"]}).json()
    assert set(tokens[0][0]) == {"id", "text", "special", "start", "stop"}
    np.testing.assert_allclose(
        embeddings(server.post("/v1/embeddings", {"input": TEXTS})), wanted["document"], atol=1e-6
    )
    ranked = server.post("/rerank", {"query": "茶", "texts": TEXTS, "return_text": True}).json()
    assert {entry["text"] for entry in ranked} == set(TEXTS)


def test_dify_xinference(server: Server) -> None:
    for name, kind in ((MODEL, "embedding"), (RERANKER, "rerank")):
        said = server.get(f"/v1/models/{name}").json()
        assert kind in said["model_ability"]
        assert said["max_tokens"] == 512
    body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "return_documents": True}
    for entry in server.post("/v1/rerank", body).json()["results"]:
        assert entry["document"]["text"] == TEXTS[entry["index"]]
        assert float(entry["relevance_score"]) >= 0


def test_ragflow(server: Server, wanted: dict[str, np.ndarray]) -> None:
    body: dict[str, Any] = {"model": MODEL, "input": TEXTS, "encoding_format": "float", "drop_params": True}
    np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted["document"], atol=1e-6)
    for inputs in (TEXTS, TEXTS[0]):  # a bare text too
        found = np.array(server.post("/embed", {"inputs": inputs}).json(), np.float32)
        np.testing.assert_allclose(found, wanted["document"][: len(found)], atol=1e-6)
    body = {"query": "茶", "texts": TEXTS * 4, "raw_scores": False, "truncate": True}
    assert sorted(entry["index"] for entry in server.post("/rerank", body).json()) == list(range(8))
    body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "return_documents": "true", "return_len": "true"}
    assert len(server.post("/v1/rerank", body).json()["results"]) == 2


def test_fastgpt(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """Its settings for each side go into the body as they are: with input_type there, sides need no code."""
    for side in ("query", "document"):
        body = {"model": MODEL, "input": TEXTS, "encoding_format": "float", "input_type": side}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)
    answer = server.post("/v1/rerank", {"model": RERANKER, "query": "茶", "documents": TEXTS}).json()
    scores = [entry["relevance_score"] for entry in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["meta"]["tokens"]["input_tokens"] > 0


def test_one_api(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """With a mapped model it drops unknown fields: the side must survive in the model's name."""
    for side in ("query", "document"):
        body = {"model": f"{MODEL}-{side}", "input": TEXTS}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)


def test_a_language_model_answers_with_likelihoods(tmp_path: Any) -> None:
    """RankingGPT's raw score is a log-likelihood: thresholds of these applications need 0 to 1."""
    with serving(Settings((f"rankinggpt={tiny_causal_lm(tmp_path)}",), {"dtype": "float32"})) as server:
        body = {"query": "茶好喝吗", "documents": [*TEXTS, "长城在北京。"]}
        raw = server.post("/v1/rerank", {**body, "raw_scores": True}).json()["results"]
        found = server.post("/v1/rerank", body).json()["results"]
    assert [entry["index"] for entry in found] == [entry["index"] for entry in raw]
    scores = [entry["relevance_score"] for entry in found]
    np.testing.assert_allclose(scores, np.exp([entry["relevance_score"] for entry in raw]), rtol=1e-5)
    assert all(0 <= score <= 1 for score in scores)
