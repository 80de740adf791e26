"""Server processes: how they start, how they are told to end, and how long that takes."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.server.programs import program
from tests.server.serving import answered, head, wait_until
from zh_retrieval.cli.main import main

BODY = b'{"input":"\xe8\x8c\xb6"}'


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    line = socket.socket()
    if receive_buffer is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    line.settimeout(30)
    line.connect(("127.0.0.1", port))
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_a_model_loads_ends_it_at_once(number: signal.Signals) -> None:
    with program("tests.server.program", "loads", "30") as server:
        port = server.listening()
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503
        server.process.send_signal(number)
        assert server.ended(1) == 0  # nothing is under way: it takes no part of the 30 s
    assert f"{number.name}: 0 requests are under way" in server.said


@pytest.mark.slow
def test_nothing_that_can_be_done_is_lost_beside_bodies_and_answers_that_do_not_move() -> None:
    drain = 3.0
    with program("tests.server.program", "computes", str(drain)) as server:
        port = int(server.url().rpartition(":")[2])
        process = psutil.Process(server.process.pid)
        rest = process.memory_info().rss
        stalled = [connect(port) for _ in range(5)]
        for line in stalled:
            line.sendall(head("/v1/embeddings", 3_000_000) + b'{"input": "' + b"a" * 2_900_000)
        unread = [connect(port, 4096) for _ in range(5)]  # 42 MB with the bodies, of the 64 MB under way
        many = json.dumps({"input": [str(number) for number in range(120)]}).encode()
        for line in unread:
            line.sendall(head("/v1/embeddings", len(many)) + many)
        answers: Counter[str] = Counter()
        told = threading.Event()

        def ask() -> None:
            """Ask until nobody listens; what was sent before the signal must be answered with a vector."""
            with connect(port) as line:
                while True:
                    before = not told.is_set()
                    with suppress(OSError, AssertionError):
                        line.sendall(head("/v1/embeddings", len(BODY)) + BODY)
                        status = answered(line)[9:12].decode()
                        answers[f"{status} {'before' if before and not told.is_set() else 'around or after'}"] += 1
                        if status == "200":
                            continue
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: answers["200 before"] >= 16, 60)
        alive = []
        with httpx.Client() as client:
            for _ in range(100):
                begin = time.monotonic()
                assert client.get(f"http://127.0.0.1:{port}/livez").status_code == 200
                alive.append(time.monotonic() - begin)
        told.set()
        server.process.send_signal(signal.SIGTERM)
        status = server.ended(drain)
        for thread in threads:
            thread.join(30)
        for line in (*stalled, *unread):
            line.close()
    assert status == 0, server.said
    assert sorted(alive)[90] < 0.5, alive
    assert set(answers) <= {"200 before", "200 around or after", "503 around or after"}, answers
    assert rest < 1e9


@pytest.mark.slow
def test_memory_comes_back_when_bodies_and_answers_that_do_not_move_are_dropped() -> None:
    flags = ("--port", "0", "--dtype", "float32", "--transfer-seconds", "2", "--log", "json")
    with program("zh_retrieval.cli.main", "serve", *flags) as server:
        port = int(server.url().rpartition(":")[2])
        process = psutil.Process(server.process.pid)
        bodies = [connect(port) for _ in range(40)]
        rest = process.memory_info().rss
        for line in bodies:
            line.sendall(head("/v1/embeddings", 3_900_000) + b'{"input": "' + b"a" * 3_500_000)
        wait_until(lambda: server.said.count(" 408 ") + server.said.count(" 429 ") == 40)
        wait_until(lambda: process.memory_info().rss < rest + 50e6)
        for line in bodies:
            line.close()


@pytest.mark.parametrize("keys", [" , ", ",", " ", "a,\u6d4b"])
def test_keys_that_are_none_let_nobody_in(
    keys: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", keys)
    assert main(["serve", "--port", "0"]) == 2
    said = capsys.readouterr()
    assert "ZH_RETRIEVAL_API_KEY" in said.err
    assert not said.out


@pytest.mark.parametrize("flags", [
    ("--port", "99999"), ("--port", "-1"), ("--drain", "nan"), ("--drain", "-1"), ("--max-connections", "0"),
    ("--max-wait", "0"), ("--host", "no.such.host.invalid"),
])  # fmt: skip
def test_what_cannot_start_says_so_with_status_2(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *flags]) == 2
    assert flags[1] in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"127.0.0.1 port {port}: Address already in use" in capsys.readouterr().err


def test_a_model_that_there_is_not_ends_it_with_status_2(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["serve", "--port", "0", "--model", "no-such-model"]) == 2
    assert "no-such-model" in caplog.text


def test_the_log_says_what_each_request_was() -> None:
    with program("tests.server.program", "computes", "5") as server:
        url = server.url()
        headers = {"x-request-id": "mine"}
        assert httpx.post(f"{url}/v1/embeddings", content=BODY, headers=headers).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.ended(5) == 0
    lines = [json.loads(line) for line in server.lines]
    (asked,) = (line for line in lines if line.get("request_id") == "mine")
    assert asked["model"] == "slow"
    assert asked["inputs"] == 1
    assert {"tokens", "cut", "queued_ms", "milliseconds", "status", "route"} <= asked.keys()
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert any("SIGTERM" in line["message"] for line in lines)
