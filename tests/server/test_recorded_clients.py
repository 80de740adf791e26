"""What applications send that cannot run here, request by request as their sources have it, and what they read."""

from __future__ import annotations

import base64
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


def test_maxkb(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """1Panel-dev/MaxKB apps/models_provider/impl/{vllm,openai}_model_provider/model/embedding.py, .../reranker.py.

    Its Xinference provider uses xinference-client, which test_more_clients.py runs.
    """
    body: dict[str, Any] = {"input": TEXTS, "model": MODEL, "encoding_format": "float"}
    np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted["document"], atol=1e-6)
    body |= {"input_type": "query"}  # the model's parameters go into the body
    np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted["query"], atol=1e-6)
    for path in ("/v2/rerank", "/v1/rerank"):  # cohere.Client: the second where the first is 404
        body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "top_n": 3}
        results = server.post(path, body).json()["results"]
        assert sorted(entry["index"] for entry in results) == [0, 1]


def test_lightrag(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """HKUDS/LightRAG lightrag/llm/openai.py (openai_embed: base64, dimensions, prefixes) and lightrag/rerank.py."""
    body: dict[str, Any] = {"model": MODEL, "input": TEXTS, "encoding_format": "base64", "dimensions": 384}
    data = server.post("/v1/embeddings", body).json()["data"]
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in data]
    np.testing.assert_allclose(rows, wanted["document"], atol=1e-6)
    body = {"model": MODEL, "input": [f"query: {text}" for text in TEXTS], "encoding_format": "float"}  # query_prefix
    np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted["query"], atol=1e-6)
    for path, more in (("/v2/rerank", {}), ("/v1/rerank", {"return_documents": False})):  # cohere, jina
        body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "top_n": 2, **more}
        results = server.post(path, body).json()["results"]
        assert all({"index", "relevance_score"} <= entry.keys() for entry in results)


def test_open_webui(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """open-webui/open-webui backend/open_webui/retrieval/utils.py and .../retrieval/models/external.py.

    RAG_EMBEDDING_PREFIX_FIELD_NAME=input_type sends the prefixes as that field.
    """
    for prefix, side in (("query", "query"), ("document", "document")):
        body: dict[str, Any] = {"input": TEXTS, "model": MODEL, "input_type": prefix}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)
        found = server.post("/api/embed", {**body, "truncate": True}).json()["embeddings"]
        np.testing.assert_allclose(found, wanted[side], atol=1e-6)
    body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "top_n": 2}
    results = sorted(server.post("/v1/rerank", body).json()["results"], key=lambda entry: entry["index"])
    assert [entry["index"] for entry in results] == [0, 1]


def test_anything_llm(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """Mintplex-Labs/anything-llm server/utils/EmbeddingEngines/genericOpenAi/index.js and .../ollama/index.js."""
    body: dict[str, Any] = {"model": MODEL, "input": TEXTS, "encoding_format": "base64"}  # openai's JS client adds it
    data = server.post("/v1/embeddings", body).json()["data"]
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in data]
    np.testing.assert_allclose(rows, wanted["document"], atol=1e-6)
    assert server.get("/").status_code == 200  # "is Ollama running?"
    body = {"model": MODEL, "input": TEXTS[:1], "options": {"num_ctx": 512}}
    found = server.post("/api/embed", body).json()["embeddings"]
    np.testing.assert_allclose(found, wanted["document"][:1], atol=1e-6)


def test_new_api(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """QuantumNous/new-api dto/embedding.go and dto/rerank.go: it writes these fields only; input_type is none."""
    for side in ("query", "document"):
        body: dict[str, Any] = {"model": f"{MODEL}-{side}", "input": TEXTS, "encoding_format": "float", "user": "u"}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)
    body = {"documents": TEXTS, "query": "茶", "model": RERANKER, "top_n": 1, "return_documents": True}
    answer = server.post("/v1/rerank", {**body, "max_chunk_per_doc": 1, "overlap_tokens": 80}).json()
    assert answer["results"][0]["document"]["text"] in TEXTS
    assert answer["usage"]["total_tokens"] > 0


def test_n8n(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """n8n-io/n8n packages/@n8n/nodes-langchain/nodes/embeddings/EmbeddingsOpenAI: LangChain JS's OpenAIEmbeddings."""
    body: dict[str, Any] = {"model": MODEL, "input": TEXTS, "encoding_format": "float"}
    np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted["document"], atol=1e-6)
    refused = server.post("/v1/embeddings", {**body, "dimensions": 1536})  # its own choices are OpenAI's
    assert refused.status_code == 400
    assert "1536" in refused.text


def test_jina(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """As llama-index-embeddings-jinaai (base.py, _JinaAPICaller) and api.jina.ai's own documentation send it."""
    for task, side in (("retrieval.query", "query"), ("retrieval.passage", "document")):
        body: dict[str, Any] = {"input": TEXTS, "model": MODEL, "encoding_type": "float", "task": task}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)
        objects = [{"text": text} for text in TEXTS]
        body = {"input": objects, "model": MODEL, "embedding_type": "float", "normalized": True, "task": task}
        np.testing.assert_allclose(embeddings(server.post("/v1/embeddings", body)), wanted[side], atol=1e-6)
    refused = server.post("/v1/embeddings", {"input": [{"image": "x"}], "model": MODEL})
    assert refused.status_code == 400
    assert "input[0] is an object without text" in refused.text


def test_litellm_infinity(server: Server, wanted: dict[str, np.ndarray]) -> None:
    """litellm/llms/infinity/embedding/transformation.py and .../rerank/transformation.py: a document is a text."""
    body = {"input": TEXTS, "model": MODEL, "encoding_format": "float", "output_dimension": 384}
    np.testing.assert_allclose(embeddings(server.post("/infinity/embeddings", body)), wanted["document"], atol=1e-6)
    body = {"model": RERANKER, "query": "茶", "documents": TEXTS, "top_n": 2, "return_documents": True}
    for entry in server.post("/infinity/rerank", body).json()["results"]:
        assert entry["document"] == TEXTS[entry["index"]]


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
