"""Our own protocol: vectors and scores as the handles give them, errors by their class."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.server.settings import Settings

ROOT = "/v1/zh-retrieval"
TEXTS = ["西湖在杭州。", "长城在北京。", "西湖在杭州。"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    settings = Settings(("e5-small-zh", f"bge-reranker-large={folder}"), {"dtype": "float32"}, max_body_bytes=100_000)
    with serving(settings) as running:
        yield running


def rows(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    found = np.frombuffer(response.content, "<f4")
    return found.reshape(int(response.headers["x-rows"]), int(response.headers["x-dimension"]))


@pytest.mark.parametrize("side", ["query", "document"])
def test_vectors_are_those_of_the_handle(server: Server, side: str) -> None:
    with zr.load_encoder("e5-small-zh", dtype="float32") as encoder:
        wanted = encoder.encode_queries(TEXTS) if side == "query" else encoder.encode_documents(TEXTS)
    found = rows(server.post(f"{ROOT}/embed", {"model": "e5-small-zh", "side": side, "texts": TEXTS}))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_no_texts_are_no_rows(server: Server) -> None:
    response = server.post(f"{ROOT}/embed", {"model": "e5-small-zh", "side": "query", "texts": []})
    assert (response.status_code, response.content, response.headers["x-rows"]) == (200, b"", "0")


def test_scores_are_raw(server: Server) -> None:
    pairs = [["西湖在哪里？", text] for text in TEXTS]
    found = rows(server.post(f"{ROOT}/score", {"model": "bge-reranker-large", "pairs": pairs}))[:, 0]
    served = server.app._running.models.reranker("bge-reranker-large")
    np.testing.assert_allclose(found, served.handle.score([tuple(pair) for pair in pairs]), atol=1e-6)


def test_a_document_is_not_chunked_beyond_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zh_retrieval.server.dialects.own.LONGEST", 50)
    for size, status in ((50, 200), (51, 400)):
        body = {"model": "e5-small-zh", "document": "好" * size, "spans": [[0, 9]]}
        response = server.post(f"{ROOT}/chunks", body)
        assert response.status_code == status
    assert response.json()["error"]["type"] == "InputError"
    assert "51 characters, more than the 50" in response.json()["error"]["message"]


def test_chunks_see_their_document(server: Server) -> None:
    document = "西湖在杭州。它很美，游人很多。"
    spans = [(0, 6), (6, 15)]
    with zr.load_encoder("e5-small-zh", dtype="float32") as encoder:
        wanted = encoder.encode_chunks(document, spans)
    found = rows(server.post(f"{ROOT}/chunks", {"model": "e5-small-zh", "document": document, "spans": spans}))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_models_say_what_clients_compare(server: Server) -> None:
    found = server.get(f"{ROOT}/models").json()
    embedder, reranker = found["models"]
    assert found["version"] == zr.__version__
    assert (embedder["task"], reranker["task"]) == ("embed", "rerank")
    assert embedder["recipe"] == recipe_hash(zr.get_spec("e5-small-zh"))
    assert (embedder["dimension"], reranker["dimension"]) == (384, None)
    assert embedder["dtype"] == "float32"
    assert embedder["limits"] == {"max_texts": 2048, "max_body_bytes": 100_000}
    embedded = server.post(f"{ROOT}/embed", {"model": "e5-small-zh", "texts": ["好"]})
    assert embedded.headers["x-weights"] == embedder["weights"] != reranker["weights"]


def test_a_remote_model_has_the_fingerprint_of_the_servers_weights_and_options(server: Server) -> None:
    remote = {"base_url": server.url}
    with (
        zr.load_encoder("e5-small-zh", dtype="float32") as local,
        zr.load_encoder("e5-small-zh", **remote) as far,
        zr.load_encoder("e5-small-zh", overflow="error", **remote) as strict,
    ):
        assert far.fingerprint == local.fingerprint != strict.fingerprint


def test_cut_inputs_are_counted(server: Server) -> None:
    long = "好" * 3000
    response = server.post(f"{ROOT}/embed", {"model": "e5-small-zh", "texts": ["短", long, long]})
    assert response.headers["x-truncated"] == "2"
    pairs = [["短", "短"], ["短", long]]
    assert server.post(f"{ROOT}/score", {"model": "bge-reranker-large", "pairs": pairs}).headers["x-truncated"] == "1"


def test_a_packed_body_is_unpacked_within_the_limit(server: Server) -> None:
    def ask(texts: list[str]) -> httpx.Response:
        body = gzip.compress(json.dumps({"model": "e5-small-zh", "texts": texts}).encode())
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return httpx.post(f"{server.url}{ROOT}/embed", content=body, headers=headers)

    assert rows(ask(["好"])).shape == (1, 384)
    bomb = ask(["a" * 5_000_000])
    assert bomb.status_code == 413
    assert "max_body_bytes=100000" in bomb.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "says"),
    [
        ("embed", {"model": "nope", "texts": ["好"]}, 404, "UnknownModelError", "e5-small-zh"),
        ("embed", {"model": "bge-reranker-large", "texts": ["好"]}, 400, "WrongTaskError", "reranking"),
        ("embed", {"model": "e5-small-zh", "texts": ["好", 3]}, 400, "InputError", "texts[1]"),
        ("embed", {"model": "e5-small-zh", "texts": ["好", "\ud83d"]}, 400, "InputError", "texts[1]"),
        ("embed", {"model": "e5-small-zh", "side": "x", "texts": ["好"]}, 400, "InputError", "document"),
        (
            "embed",
            {"model": "e5-small-zh", "side": "query", "instruction": "x", "texts": ["好"]},
            400,
            "ConfigError",
            "",
        ),
        ("score", {"model": "bge-reranker-large", "pairs": [["a"]]}, 400, "InputError", "pairs[0]"),
        ("chunks", {"model": "e5-small-zh", "document": "好", "spans": [[0, 9]]}, 400, "InputError", "spans[0]"),
        ("embed", {"model": "e5-small-zh", "texts": ["好"] * 2049}, 400, "InputError", "max_texts=2048"),
    ],
)
def test_errors_are_named(
    server: Server, path: str, body: dict[str, object], status: int, kind: str, says: str
) -> None:
    response = httpx.post(f"{server.url}{ROOT}/{path}", content=json.dumps(body))
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind
    assert says in response.json()["error"]["message"]


def test_a_recipe_of_ones_own_travels(server: Server) -> None:
    import pickle

    from zh_retrieval.server.app import App

    spec = replace(zr.get_spec("e5-small-zh"), name="mine", aliases=())
    settings = pickle.loads(pickle.dumps(App(Settings((spec,))))).settings
    assert settings.models == (spec,)
