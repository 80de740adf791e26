"""What a client makes the server wait for has an end: headers, bodies, answers, connections."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.server.serving import HeldEncoder, answered, head, serving, until_closed, wait_until
from zh_retrieval.server.http import connection
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

BODY = b'{"input":"\xe8\x8c\xb6"}'
PATH = "/v1/embeddings"


def test_a_body_that_does_not_come_is_answered_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LINGER", 0.2)
    with serving(Settings(handles={"fake": FakeEncoder()}, transfer_seconds=0.3)) as server:
        with server.connect() as line:
            line.sendall(head(PATH, 1000) + b'{"input": ["')
            answer = until_closed(line)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"--transfer-seconds" in answer
        wait_until(lambda: not server.host.server_state.connections)
        assert 'errors_total{kind="Timeout"} 1.0' in server.get("/metrics").text


def test_a_body_that_comes_byte_by_byte_is_too_late_all_the_same() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, transfer_seconds=0.3)) as server, server.connect() as line:
        line.sendall(head(PATH, 1000) + b'{"input": ["')
        line.settimeout(0.05)
        answer = b""
        for _ in range(200):
            line.sendall(b"a")
            try:
                answer = line.recv(1000)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nhost: x\r\n"])
def test_headers_that_do_not_come_end_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEADER", 0.3)
    with serving(Settings(handles={"fake": FakeEncoder()})) as server:
        with server.connect() as line:
            line.sendall(sent)
            assert until_closed(line) == b""
        with server.connect() as line:  # the second request of a connection, too
            line.sendall(head(PATH, len(BODY)) + BODY)
            assert answered(line).startswith(b"HTTP/1.1 200")
            line.sendall(b"POST")
            until_closed(line)


def test_headers_have_a_size() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server, server.connect() as line:
        line.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-a: ")
        sent = 0
        try:
            while sent < 10_000_000:
                sent += line.send(b"a" * 65_536)
        except ConnectionError:
            pass
        assert sent < 10_000_000
        assert server.get("/livez").status_code == 200


def test_an_answer_that_is_not_taken_is_dropped() -> None:
    with serving(Settings(handles={"fake": FakeEncoder(4096)}, transfer_seconds=0.5)) as server:
        body = json.dumps({"input": [str(number) for number in range(512)]}).encode()
        with server.connect(4096) as line:
            line.sendall(head(PATH, len(body)) + body)
            wait_until(lambda: any(one.unsent for one in server.host.server_state.connections))
            assert server.host._busy  # it is under way until it is taken
            wait_until(lambda: not server.host.server_state.connections)
        wait_until(lambda: not server.host._busy)


def test_a_slow_reader_that_is_quick_enough_gets_all() -> None:
    with serving(Settings(handles={"fake": FakeEncoder(1024)}, transfer_seconds=20)) as server:
        body = json.dumps({"input": [str(number) for number in range(256)], "encoding_format": "float"}).encode()
        with server.connect(4096) as line:
            line.sendall(head(PATH, len(body), "connection: close") + body)
            answer = until_closed(line)
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["data"]) == 256


def test_what_is_refused_early_is_closed_when_its_body_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LINGER", 0.3)
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server, server.connect() as line:
        line.sendall(head(PATH, 100_000_000) + b"a" * 1000)
        assert until_closed(line).startswith(b"HTTP/1.1 401")


def test_a_connection_goes_on_after_a_refused_body_that_came_whole() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server, server.connect() as line:
        line.sendall(head(PATH, 300_000) + b"a" * 1000)
        assert answered(line).startswith(b"HTTP/1.1 401")
        line.sendall(b"a" * 299_000)
        line.sendall(head(PATH, len(BODY), "authorization: Bearer k") + BODY)
        assert answered(line).startswith(b"HTTP/1.1 200")


def test_the_connection_that_idles_longest_makes_room() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}), max_connections=3) as server:
        lines = [server.connect() for _ in range(3)]
        for line in lines:  # the first to ask is the one that idles longest
            line.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answered(line).startswith(b"HTTP/1.1 200")
        assert server.get("/livez").status_code == 200
        assert until_closed(lines[0]) == b""
        lines[2].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answered(lines[2]).startswith(b"HTTP/1.1 200")
        for line in lines:
            line.close()


def test_a_new_connection_is_refused_where_all_are_under_way() -> None:
    fake = HeldEncoder()
    with serving(Settings(handles={"fake": fake}), max_connections=2) as server:
        lines = [server.connect() for _ in range(2)]
        for line in lines:
            line.sendall(head(PATH, len(BODY)) + BODY)
        wait_until(lambda: fake.under_way == 2)
        with server.connect() as line:
            answer = until_closed(line)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
        fake.holds = False
        for line in lines:
            assert answered(line).startswith(b"HTTP/1.1 200")
            line.close()
        assert 'zh_retrieval_refused_total{reason="too_many_connections"} 1.0' in server.get("/metrics").text


def test_a_websocket_is_answered_as_any_request_is() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()})) as server:
        headers = {"upgrade": "websocket", "connection": "upgrade"}
        assert httpx.get(f"{server.url}/livez", headers=headers).status_code == 200
