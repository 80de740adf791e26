"""What people complained about in other servers, one test each: ours does none of it."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import zh_retrieval as zr
from tests.server.serving import HeldEncoder, Server, flood, serving, wait_until
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.base import Pair
from zh_retrieval.errors import DeviceMemoryError, OverloadedError
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder, FakeReranker

MODEL = "e5-small-zh"
LONG = "西湖在杭州，龙井茶也在杭州。" * 500  # about 4700 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def server(folder: Any) -> Iterator[Server]:
    with serving(Settings((MODEL, f"bge-reranker-large={folder}"), {"dtype": "float32"})) as running:
        yield running


@pytest.fixture(scope="module")
def wanted() -> Iterator[Callable[[Sequence[str]], np.ndarray]]:
    with zr.load_encoder(MODEL, dtype="float32") as encoder:
        yield encoder.encode_documents


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], dtype=np.float32)


def test_01_one_bad_input_harms_nobody_else(server: Server, wanted: Callable[[Sequence[str]], np.ndarray]) -> None:
    bad: list[dict[str, object]] = [{"input": [7]}, {"input": ["好", "\ud83d"]}, {"input": [""]}, {"inputs": None}]
    asked = [
        ("/v1/embeddings", body)
        for number in range(20)
        for body in ({"input": [f"第{number}号茶"]}, bad[number % len(bad)])
    ]

    async def send() -> list[httpx.Response]:
        import json

        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            return await asyncio.gather(*(client.post(path, content=json.dumps(body)) for path, body in asked))

    answers = asyncio.run(send())
    assert {answer.status_code for answer in answers[1::2]} == {400}
    found = np.concatenate([vectors(answer) for answer in answers[::2]])
    np.testing.assert_allclose(found, wanted([f"第{number}号茶" for number in range(20)]), atol=1e-5)
    assert server.get("/readyz").status_code == 200


def test_02_out_of_memory_is_an_answer_and_passes() -> None:
    fake = HeldEncoder(holds=False)

    def full(_: np.ndarray) -> np.ndarray:
        raise DeviceMemoryError("The device has no memory left for 4700 tokens.")

    with serving(Settings(handles={"fake": fake})) as server:
        fake.fault = full
        answer = server.post("/v1/embeddings", {"input": "好"})
        assert answer.status_code == 500
        assert "no memory left" in answer.json()["error"]["message"]
        fake.fault = lambda rows: rows
        assert server.post("/v1/embeddings", {"input": "好"}).status_code == 200
        wait_until(lambda: server.get("/readyz").status_code == 200)


def test_03_a_long_text_leaves_no_zeros_behind(
    server: Server, wanted: Callable[[Sequence[str]], np.ndarray]
) -> None:  # fmt: skip
    assert server.post("/v1/embeddings", {"input": LONG}).status_code == 200
    for text in ("绿茶", "红茶"):
        np.testing.assert_allclose(vectors(server.post("/v1/embeddings", {"input": text})), wanted([text]), atol=1e-5)


def test_04_token_ids_get_no_vector(server: Server) -> None:
    for ids in ([12579, 233], [[12579, 233], [7]]):
        answer = server.post("/v1/embeddings", {"input": ids})
        assert answer.status_code == 400
        assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


def test_05_base64_is_base64(server: Server) -> None:
    plain = vectors(server.post("/v1/embeddings", {"input": "茶"}))
    coded = server.post("/v1/embeddings", {"input": "茶", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), plain[0])


def test_06_sixty_inputs_are_not_too_many(server: Server, wanted: Callable[[Sequence[str]], np.ndarray]) -> None:
    texts = [f"第{number}号茶" for number in range(60)]
    np.testing.assert_allclose(vectors(server.post("/v1/embeddings", {"input": texts})), wanted(texts), atol=1e-5)
    assert len(server.post("/embed", {"inputs": texts}).json()) == 60


def test_07_the_limit_of_a_body_has_a_name() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, max_body_bytes=1000)) as server:
        answer = server.post("/embed", {"inputs": "茶" * 1000})
    assert answer.status_code == 413
    assert "max_body_bytes=1000" in answer.json()["error"]
    assert "--max-body-bytes" in answer.json()["error"]


def test_08_a_text_of_any_length_is_cut_unless_that_is_refused(server: Server) -> None:
    assert server.post("/v1/embeddings", {"input": "茶" * 100_000}).status_code == 200
    assert server.post("/embed", {"inputs": LONG, "truncate": True}).status_code == 200
    for path, body in (("/v1/embeddings", {"input": ["好", LONG]}), ("/embed", {"inputs": ["好", LONG]})):
        answer = server.post(path, {**body, "truncate": False})
        assert answer.status_code == 422
        for needed in ("512", "[1]"):  # what is allowed, and which
            assert needed in answer.text


def test_09_a_cut_is_visible(server: Server) -> None:
    answer = server.post("/v1/embeddings", {"input": ["好", LONG]})
    assert answer.headers["x-truncated"] == "1"
    assert 1000 < int(answer.headers["x-truncated-tokens"]) < 4700  # at least so many: its end is not tokenized
    assert answer.json()["usage"]["truncated_inputs"] == 1
    assert "zh_retrieval_truncated_inputs_total" in server.get("/metrics").text


def test_10_one_text_and_a_list_of_one_are_refused_alike_and_soon() -> None:
    times = []
    with (
        serving(Settings(handles={"fake": HeldEncoder(room=0)})) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for _ in range(10):
            for path, field in (("/v1/embeddings", "input"), ("/embed", "inputs")):
                for asked in ("茶", ["茶"]):
                    start = time.perf_counter()
                    assert client.post(path, json={field: asked}).status_code == 429
                    times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.05


@pytest.mark.slow
def test_11_a_text_larger_than_the_queue_ends(server: Server) -> None:
    settings = Settings((MODEL,), {"dtype": "float32", "max_batch_tokens": 64}, max_queue_tokens=64)
    with serving(settings) as small:
        answer = small.post("/v1/embeddings", {"input": "西湖在杭州。" * 60})
        whole = server.post("/v1/embeddings", {"input": "西湖在杭州。" * 60})
        np.testing.assert_allclose(vectors(answer), vectors(whole), atol=1e-5)


def test_12_health_needs_no_key() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server:
        assert [server.get(path).status_code for path in ("/livez", "/readyz", "/health", "/ping")] == [200] * 4
        assert server.get("/metrics").status_code == 401


def test_13_an_empty_text_is_named(server: Server) -> None:
    for path, field in (("/v1/embeddings", "input"), ("/embed", "inputs")):
        answer = server.post(path, {field: ["好", "", "茶"]})
        assert answer.status_code == 400
        assert f"{field}[1]" in answer.text


@pytest.mark.filterwarnings("ignore")
def test_14_rerank_scores_are_those_of_sentence_transformers(server: Server, folder: Any) -> None:
    from sentence_transformers import CrossEncoder

    documents = ["西湖在杭州。", "长城在北京。", "茶" * 600]
    theirs = CrossEncoder(str(folder), device="cpu").predict([("西湖在哪里？", document) for document in documents])
    body = {"query": "西湖在哪里？", "documents": documents}
    results = server.post("/v1/rerank", body).json()["results"]
    ours = {entry["index"]: entry["relevance_score"] for entry in results}
    np.testing.assert_allclose([ours[index] for index in range(3)], theirs, atol=1e-5)


def test_15_long_documents_give_their_memory_back(server: Server) -> None:
    body = {"query": "西湖在哪里？", "documents": [LONG] * 10}
    sizes = []
    for _ in range(6):
        assert len(server.post("/v1/rerank", body).json()["results"]) == 10
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[1] < 30e6, sizes


def test_16_health_is_bad_while_the_device_is(server: Server) -> None:
    def dead(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("CUDA error: device-side assert triggered")

    fake = HeldEncoder(holds=False)
    with serving(Settings(handles={"fake": fake})) as broken:
        fake.fault = dead
        assert broken.post("/v1/embeddings", {"input": "好"}).status_code == 500
        for path in ("/health", "/readyz", "/ping"):
            assert broken.get(path).status_code == 503
        time.sleep(1.2)  # a proof has failed again meanwhile
        assert broken.get("/health").status_code == 503
        assert broken.get("/livez").status_code == 200


@pytest.mark.slow
def test_17_health_answers_under_load(server: Server) -> None:
    texts = [f"第{number}号茶，" * 40 for number in range(100)]
    busy = threading.Thread(target=server.post, args=("/v1/embeddings", {"input": texts}))
    busy.start()
    times = []
    with httpx.Client(base_url=server.url) as client:
        while busy.is_alive():
            start = time.perf_counter()
            assert client.get("/livez").status_code == 200
            times.append(time.perf_counter() - start)
            time.sleep(0.01)
    busy.join()
    assert len(times) > 20
    assert sorted(times)[int(0.95 * len(times))] < 0.1


def test_18_a_client_waits_for_a_server_that_warms_up() -> None:
    go = threading.Event()

    class Late(FakeEncoder):
        def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
            assert go.wait(30)
            return super().encode_documents(texts)

    server = Server(Settings(handles={MODEL: Late(384)}), wait=False)
    try:
        wait_until(lambda: server.host.started)
        threading.Timer(1.5, go.set).start()
        with zr.load_encoder(MODEL, base_url=server.url) as encoder:
            np.testing.assert_allclose(encoder.encode_documents(["茶"]), FakeEncoder(384).encode_documents(["茶"]))
        assert go.is_set()
    finally:
        go.set()
        server.stop()


def test_19_what_is_under_way_at_the_end_is_finished() -> None:
    fake = HeldEncoder()
    server = Server(Settings(handles={"fake": fake}))
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.post("/v1/embeddings", {"input": "茶"}).status_code))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: fake.under_way == 20)
    server.host.handle_exit(15, None)  # what SIGTERM does
    assert server.get("/readyz").status_code == 503
    assert server.post("/v1/embeddings", {"input": "茶"}).status_code == 503
    fake.holds = False
    for thread in threads:
        thread.join()
    assert answers == [200] * 20
    server.thread.join(10)
    assert not server.thread.is_alive()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/score"])
def test_20_a_score_is_a_number_or_an_error(path: str) -> None:
    class Broken(FakeReranker):
        broken = False

        async def ascore(
            self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
        ) -> np.ndarray:
            return self.score(pairs) * (np.nan if self.broken else 1)

    fake = Broken()
    bodies: dict[str, dict[str, object]] = {"/score": {"text_1": "茶", "text_2": ["绿茶", "红茶"]}}
    with serving(Settings(handles={"fake": fake})) as server:
        body = bodies.get(path, {"query": "茶", "documents": ["绿茶", "红茶"]})
        assert server.post(path, body).status_code == 200
        fake.broken = True
        answer = server.post(path, body)
    assert answer.status_code == 500
    assert not {"results", "data"} & set(answer.json())


def test_21_too_much_is_429_on_every_route_never_500() -> None:
    class Full(FakeReranker):
        async def ascore(
            self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
        ) -> np.ndarray:
            raise OverloadedError("Too much waits.")

    documents: dict[str, object] = {"query": "茶", "documents": ["绿茶"]}
    asked: list[tuple[str, dict[str, object]]] = [
        ("/v1/embeddings", {"input": "茶"}), ("/embeddings", {"input": "茶"}), ("/embed", {"inputs": "茶"}),
        ("/", {"inputs": "茶"}), ("/rerank", documents), ("/rerank", {"query": "茶", "texts": ["绿茶"]}),
        ("/v1/rerank", documents), ("/v2/rerank", documents), ("/score", {"text_1": "茶", "text_2": "绿茶"}),
        ("/v1/zh-retrieval/embed", {"model": MODEL, "texts": ["茶"]}),
        ("/v1/zh-retrieval/score", {"model": "bge-reranker-large", "pairs": [["茶", "绿茶"]]}),
    ]  # fmt: skip
    with serving(Settings(handles={"slow": HeldEncoder(room=0), "full": Full()})) as server:
        answers = asyncio.run(flood(server.url, asked))
    assert [answer.status_code for answer in answers] == [429] * len(asked)
    assert all(1 <= int(answer.headers["retry-after"]) <= 120 for answer in answers)
