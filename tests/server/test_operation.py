"""Under load and at the ends: refusals, clients that leave, faults, starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.serving import HeldEncoder, Server, flood, serving, texts_wait, wait_until
from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.settings import Settings, keys_of_environment
from zh_retrieval.testing import FakeEncoder

BODY = {"input": "好"}
KEY = {"authorization": "Bearer k"}


@pytest.fixture(scope="module")
def builtin() -> Iterator[Server]:
    with serving(Settings(("e5-small-zh",), {"dtype": "float32"}, keys=("k",), public_metrics=True)) as server:
        yield server


def test_a_full_queue_refuses_in_the_routes_dialect() -> None:
    fake = HeldEncoder(room=5)

    def let_go() -> None:
        wait_until(lambda: fake.refused == 35)
        fake.holds = False

    with serving(Settings(handles={"fake": fake})) as server:
        threading.Thread(target=let_go).start()
        asked = [("/v1/embeddings", BODY), ("/embed", {"inputs": ["好"]})] * 20
        answers = asyncio.run(flood(server.url, asked))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert sum(answer.status_code == 200 for answer in answers) == 5
    assert len(refused) == 35
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        body = answer.json()
        assert body.get("error_type") == "Overloaded" or body["error"]["type"] == "rate_limit_error"


@pytest.mark.slow
def test_a_real_queue_refuses_and_what_was_accepted_is_right() -> None:
    with (
        serving(Settings(("e5-small-zh",), {"dtype": "float32"}, max_queue_tokens=600)) as server,
        zr.load_encoder("e5-small-zh", dtype="float32") as encoder,
    ):
        texts = [f"第{number}号茶，" * 40 for number in range(60)]
        asked = [("/v1/embeddings", {"input": text}) for text in texts]
        answers = asyncio.run(flood(server.url, asked))
        accepted = [index for index, answer in enumerate(answers) if answer.status_code == 200]
        assert {answer.status_code for answer in answers} == {200, 429}
        wanted = encoder.encode_documents([texts[index] for index in accepted])
        found = [answers[index].json()["data"][0]["embedding"] for index in accepted]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert server.post("/v1/embeddings", BODY).status_code == 200  # the room is free again


def test_work_of_a_client_that_left_is_dropped() -> None:
    fake = HeldEncoder()
    with serving(Settings(handles={"fake": fake})) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/embeddings", json=BODY, timeout=httpx.Timeout(30, read=1))
        wait_until(lambda: fake.cancelled == 1)
        assert "zh_retrieval_dropped_total 1.0" in server.get("/metrics").text


@pytest.mark.parametrize("fault", ["nan", "zero", "raise"])
def test_a_fault_is_an_error_and_readiness_waits_for_the_proof(fault: str) -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        if fault == "raise":
            raise RuntimeError("device lost, secret detail")
        return rows * (np.nan if fault == "nan" else 0)

    fake = HeldEncoder(holds=False)
    with serving(Settings(handles={"fake": fake})) as server:
        assert server.get("/readyz").status_code == 200
        fake.fault = broken
        answer = server.post("/v1/embeddings", BODY)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert server.post("/embed", {"inputs": "好"}).status_code == 424
        assert server.get("/readyz").status_code == 503
        assert server.get("/livez").status_code == 200
        fake.fault = lambda rows: rows
        wait_until(lambda: server.get("/readyz").status_code == 200)
        assert server.post("/v1/embeddings", BODY).status_code == 200


def test_before_the_models_are_loaded() -> None:
    go = threading.Event()

    class Late(FakeEncoder):
        def encode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
            assert go.wait(30)
            return super().encode_documents(texts)

    server = Server(Settings(handles={"late": Late()}), wait=False)
    try:
        wait_until(lambda: server.host.started)
        assert server.get("/livez").status_code == 200
        for answer in (server.get("/readyz"), server.post("/v1/embeddings", BODY)):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        go.set()
        assert server.ready.wait(10)
        assert server.post("/v1/embeddings", BODY).status_code == 200
    finally:
        go.set()
        server.stop()


def test_the_documentation_needs_no_other_server() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server:
        page, document = server.get("/docs").text, server.get("/openapi.json").json()
    assert "http" not in re.sub(r"http://HOST:PORT", "", page)
    assert "post" in document["paths"]["/v1/embeddings"]
    assert "/v1/embeddings" in page


def test_the_command_serves_and_drains() -> None:
    command = [sys.executable, "-m", "zh_retrieval.cli.main", "serve", "--port", "0", "--log", "json"]
    environment = {**os.environ, "ZH_RETRIEVAL_API_KEY": "sesame"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        headers = {"authorization": "Bearer sesame"}
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = {"input": ["茶" * 200] * 60}
            with contextlib.suppress(httpx.ConnectError):  # nobody listens any more: it came too late to be taken
                answers.append(httpx.post(f"{url}/v1/embeddings", json=body, headers=headers, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: texts_wait(url, **headers))
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert 200 in {answer.status_code for answer in answers}
    for answer in answers:  # refused at the door; what was taken is finished, not cut
        assert answer.status_code == 200 or "shutting down" in answer.json()["error"]["message"]
    assert "sesame" not in out + err


def test_a_cut_is_said_with_the_requests_id_and_counted_for_its_model(
    builtin: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="zh_retrieval")
    headers = {**KEY, "x-request-id": "a"}
    assert builtin.post("/v1/embeddings", {"input": ["茶" * 3000, "好"]}, headers=headers).status_code == 200
    for _ in range(3):
        assert builtin.post("/v1/embeddings", BODY).status_code == 401
    text = builtin.get("/metrics").text
    for line in (
        'errors_total{kind="Unauthorized"} 3.0', 'truncated_inputs_total{model="e5-small-zh"} 1.0',
        'model_seconds_count{model="e5-small-zh"} 1.0', 'queue_seconds_count{model="e5-small-zh"} 1.0',
        "# TYPE zh_retrieval_batches_total counter", "# TYPE zh_retrieval_batch_tokens_total counter",
        "process_resident_memory_bytes", "process_cpu_seconds_total",
    ):  # fmt: skip
        assert line in text, line
    assert "ConfigError" not in text
    assert not [record for record in caplog.records if "were cut" in record.getMessage()]
    found = [getattr(record, "facts", {}) for record in caplog.records]
    (facts,) = (one for one in found if one.get("request_id") == "a")
    assert facts["cut"] == 1
    assert facts["model"] == "e5-small-zh"


def test_a_replicas_own_environment_has_keys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve makes the app in one process and starts it in another."""
    pytest.importorskip("ray")
    from zh_retrieval.distributed.hosting import ServeApp

    async def started(app: ServeApp) -> int:
        await app.start()
        assert app._running is not None
        await app.ready()
        with contextlib.suppress(RequestError):
            app._running.keys.check(None)
            return 200
        app._running.keys.check(b"Bearer inner")
        await app.stop()
        return 401

    travelled = pickle.loads(pickle.dumps(ServeApp(Settings(("e5-small-zh",), {"dtype": "float32"}))))
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", "inner")
    assert asyncio.run(started(travelled)) == 401
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", " , ")
    with pytest.raises(zr.ConfigError):
        asyncio.run(travelled.start())


def test_client_and_server_read_the_same_keys(builtin: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", "k, second")
    assert keys_of_environment() == ("k", "second")
    with zr.load_encoder("e5-small-zh", base_url=builtin.url) as remote:
        assert remote.encode_documents(["好"]).shape == (1, 384)
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", ",")
    with pytest.raises(zr.ConfigError, match="ZH_RETRIEVAL_API_KEY"):
        zr.load_encoder("e5-small-zh", base_url="http://127.0.0.1:9")
