"""A model that hangs, or fails again and again, is not ready; how long a request would wait decides about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.server.serving import HeldEncoder, Server, serving, wait_until
from zh_retrieval.errors import CheckpointError
from zh_retrieval.recipes import published
from zh_retrieval.server.models.served import ServedModel, named
from zh_retrieval.server.models.watch import Watch
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

BODY = {"input": "好"}
MODEL = "e5-small-zh"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Settings((MODEL,), {"dtype": "float32", "private": True, "max_batch_tokens": 512})) as running:
        yield running


def served_by(server: Server) -> ServedModel[Any]:
    assert server.app._running is not None
    found: ServedModel[Any] = server.app._running.models.all[0]
    return found


@pytest.fixture
def hang(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Yield the event that frees a device that hangs from now on."""
    engine, freed = served_by(server).handle._model.engine, threading.Event()
    compute = engine.launch

    def launch(tokens: object) -> object:
        assert freed.wait(60)
        return compute(tokens)

    monkeypatch.setattr(engine, "launch", launch)
    yield freed
    freed.set()


def test_a_device_that_hangs_is_seen_and_nobody_waits_for_it(server: Server, hang: threading.Event) -> None:
    watch = served_by(server).watch
    before, watch._stuck_after = watch._stuck_after, 0.5
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: server.post("/v1/embeddings", BODY), range(4)))
        assert {answer.status_code for answer in answers} == {503}  # admitted, and told so
        assert all("retry-after" in answer.headers for answer in answers)
        assert "forward pass" in server.get("/readyz").json()["reason"]
        assert server.post("/v1/embeddings", BODY).status_code == 503  # at the door
        wait_until(lambda: server.get("/livez").status_code == 503)
        hang.set()
        wait_until(lambda: server.get("/readyz").status_code == 200)
        assert server.get("/livez").status_code == 200
        assert server.post("/v1/embeddings", BODY).status_code == 200
    finally:
        watch._stuck_after = before


def test_a_server_at_rest_is_not_stuck(server: Server) -> None:
    assert server.post("/v1/embeddings", BODY).status_code == 200
    wait_until(lambda: served_by(server).handle.launched is None)
    assert served_by(server).watch.computing(1e12) == 0


def test_what_would_wait_too_long_is_refused(server: Server, hang: threading.Event) -> None:
    """The rate says that 30 s are 300 tokens: a queue of more is refused though it has room for 262144."""
    served = served_by(server)
    served.watch.rate = 10.0
    try:
        wait_until(lambda: served.handle._limits.queue == 300)
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(server.post, "/v1/embeddings", {"input": "茶叶" * 60}) for _ in range(8)]
            wait_until(lambda: sum(answer.done() for answer in asked) >= 4)
            refused = [answer.result() for answer in asked if answer.done()]
            hang.set()
        assert {answer.status_code for answer in refused} == {429}
        assert "about 10 a second" in refused[0].json()["error"]["message"]
        assert 5 <= int(refused[-1].headers["retry-after"]) <= 60
        assert {answer.result().status_code for answer in asked} == {200, 429}
    finally:
        served.watch.rate = None
        served.limit_queue(262_144)


def test_the_rate_is_measured_while_more_waits() -> None:
    class Counting:
        waiting, batch_tokens, launched = 100, 0, None

    watch, counting = Watch("model", 60), Counting()
    watch.loaded(counting, 0.0)
    for second in range(10):
        counting.batch_tokens = 500 * second
        watch._measure(float(second))
    assert watch.rate == pytest.approx(500)
    assert watch.wait == pytest.approx(0.2)
    counting.waiting = 0  # what comes now comes as the clients send it
    for second in range(10, 20):
        counting.batch_tokens += 1
        watch._measure(float(second))
    assert watch.rate == pytest.approx(500)


def test_a_slow_model_may_take_ten_times_its_warm_up() -> None:
    watch = Watch("model", 1.0)
    watch.loaded(object(), 30.0)
    assert watch._stuck_after == 300


def test_requests_that_all_fail_keep_it_from_being_ready_though_the_probe_is_right() -> None:
    class Large(HeldEncoder):
        def encode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
            if len(texts) > 1:
                raise MemoryError("can't alloc")
            return super().encode_documents(texts)

    with serving(Settings(handles={"fake": Large(holds=False)})) as server:

        def in_a_row() -> bool:
            assert server.post("/v1/embeddings", {"input": ["好", "好的"]}).status_code == 500
            return "in a row" in server.get("/readyz").json().get("reason", "")

        wait_until(in_a_row)
        time.sleep(0.5)
        assert server.get("/readyz").status_code == 503  # without another request, too
        assert server.post("/v1/embeddings", {"input": ["好"]}).status_code == 200
        wait_until(lambda: server.get("/readyz").status_code == 200)


def test_weights_that_give_other_vectors_than_they_are_known_to_give_do_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = published.Published(documents={"hello world": (0.0361, 0.0475, 0.0237, -0.0627, 0.0810)})
    monkeypatch.setattr(published, "PUBLISHED", {MODEL: other})
    monkeypatch.setattr("zh_retrieval.selftest.PUBLISHED", {MODEL: other})
    (served,) = named(Settings((MODEL,), {"dtype": "float32"}))
    with pytest.raises(CheckpointError, match="published vector of 'hello world'"):
        served.load()
    served.close()


def test_a_load_that_fails_is_closed_without_a_fault() -> None:
    (served,) = named(Settings((MODEL,), {"path": "/nowhere/at/all"}))
    served.close()


def test_a_fake_that_hangs_is_seen_too() -> None:
    fake = HeldEncoder()
    with serving(Settings(handles={"fake": fake}, stuck_after=0.5)) as server:
        assert server.post("/v1/embeddings", BODY).status_code == 503
        fake.holds = False
        wait_until(lambda: server.get("/readyz").status_code == 200)
        assert server.post("/v1/embeddings", BODY).status_code == 200


def test_settings_name_what_is_no_time() -> None:
    for name in ("max_wait", "stuck_after", "transfer_seconds"):
        for value in (0, -1, float("nan"), float("inf"), True, "x"):
            with pytest.raises(Exception, match=name):
                Settings(handles={"fake": FakeEncoder()}, **{name: value})
