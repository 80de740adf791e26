"""A server of its own process under attack: it stays alive, quick and small. Linux only, as it reads /proc."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.server.serving import head, until_closed

pytestmark = [pytest.mark.slow, pytest.mark.timing, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

SECONDS = 20.0
TEXT = "西湖在杭州，风景很美。"
MORE_THAN_START = 300  # MB
PAUSE = 0.2  # seconds between two requests of each kind: what is measured is the server, not who attacks it
P99 = 0.1  # seconds


def embed(content: bytes, *, packed: bool = False, path: str = "/v1/embeddings") -> bytes:
    """Return a whole request."""
    content = gzip.compress(content, 1) if packed else content
    return head(path, len(content), "connection: close", *(["content-encoding: gzip"] if packed else [])) + content


def long_texts(characters: int) -> bytes:
    return embed(json.dumps({"input": [TEXT * (characters // len(TEXT))]}, ensure_ascii=False).encode())


# A process of its own: the threads that attack would keep this one's from looking at the clock.
_PROBE = """
import http.client, json, sys, time
line, times = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60), []
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    start = time.perf_counter()
    line.request("GET", "/livez")
    answer = line.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
    times.append(time.perf_counter() - start)
    time.sleep(0.01)
print(json.dumps(times))
"""

REQUESTS: dict[str, Callable[[], bytes]] = {
    "a text of 5 MB": lambda: long_texts(1_700_000),
    "a text of 3.9 MB": lambda: long_texts(1_300_000),
    "a word of 3.9 MB": lambda: embed(json.dumps({"input": ["a" * 3_900_000]}).encode()),
    "spaces of 3.9 MB": lambda: embed(json.dumps({"input": ["\u3000" * 1_300_000]}, ensure_ascii=False).encode()),
    "a document of 3.9 MB": lambda: embed(
        json.dumps({"model": "e5-small-zh", "document": "a" * 3_900_000, "spans": [[0, 9]]}).encode(),
        path="/v1/zh-retrieval/chunks",
    ),
    "words to the limit": lambda: embed(json.dumps({"inputs": ["a" * 100_000] * 11}).encode(), path="/tokenize"),
    "forty texts of 90 kB": lambda: embed(json.dumps({"input": [TEXT * 2800] * 40}, ensure_ascii=False).encode()),
    "ten million lists": lambda: embed(b'{"input":["x"],"junk":[' + b"[]," * 10_000_000 + b"[]]}", packed=True),
    "a million lists": lambda: embed(b'{"input":["x"],"junk":[' + b"[]," * 1_300_000 + b"[]]}", packed=True),
    "a million texts": lambda: embed(b'{"input":[' + b'"a",' * 990_000 + b'"a"]}', packed=True),
    "a name of 30 MB": lambda: embed(b'{"input":"x","model":"' + b"bge" * 10_000_000 + b'"}', packed=True),
    "a name of 3.9 MB": lambda: embed(b'{"input":"x","model":"' + b"bge" * 1_300_000 + b'"}'),
    "a million tokens": lambda: embed(json.dumps({"inputs": "a " * 1_000_000}).encode(), path="/tokenize"),
    "tokens to the limit": lambda: embed(json.dumps({"inputs": ["a " * 50_000] * 11}).encode(), path="/tokenize"),
    "not closed": lambda: embed(b'{"input":["x"],"junk":[' + b"[]," * 1_300_000, packed=True),
    "half a character after all": lambda: embed(b'{"junk":[' + b"[]," * 1_300_000 + rb'[]],"input":"\ud83d"}'),
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Yield the address and the number of the process."""
    command = [sys.executable, "-m", "zh_retrieval.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.terminate()


def resident(process: int) -> float:
    with open(f"/proc/{process}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1000


class Attack:
    """Threads that ask one thing again and again, and sockets that do not do their part."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.address = host, int(port)
        self.over = threading.Event()
        self.lines: list[socket.socket] = []
        self.statuses: dict[str, set[bytes]] = {}
        self.threads: list[threading.Thread] = []

    def line(self) -> socket.socket:
        return socket.create_connection(self.address, 60)

    def ask(self, name: str, request: bytes) -> None:
        def again() -> None:
            while not self.over.is_set():
                with self.line() as line:
                    with contextlib.suppress(ConnectionError):  # answered and closed before all was sent
                        line.sendall(request)
                    answer = until_closed(line)
                    self.statuses.setdefault(name, set()).add(answer[9:12] or b"closed")
                self.over.wait(PAUSE)

        self.threads.append(threading.Thread(target=again))
        self.threads[-1].start()

    def half(self, request: bytes) -> None:
        """Send most of a request, and no more."""
        self.lines.append(self.line())
        threading.Thread(target=self._send, args=(self.lines[-1], request[:-10]), daemon=True).start()

    def unread(self, request: bytes) -> None:
        """Send a request and do not take its answer."""
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(self.address)
        self.lines.append(line)
        self._send(line, request)

    def _send(self, line: socket.socket, request: bytes) -> None:
        try:
            line.sendall(request)
        except OSError:
            return

    def end(self) -> None:
        self.over.set()
        for line in self.lines:
            line.close()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()


def watched(url: str, process: int, seconds: float) -> tuple[float, float]:
    """Return the 99th percentile of /livez in seconds, and the most resident memory in MB."""
    sizes = []
    command = [sys.executable, "-c", _PROBE, url.rpartition(":")[2], str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        while probe.poll() is None:
            sizes.append(resident(process))
            time.sleep(0.02)
        assert probe.stdout is not None
        times = json.loads(probe.stdout.read())
    return sorted(times)[int(0.99 * len(times))], max(sizes)


def test_it_stays_quick_and_small_and_comes_back(server: tuple[str, int]) -> None:
    url, process = server
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)  # above 1, others compute on this machine, too
    requests = {name: make() for name, make in REQUESTS.items()}
    ordinary = {"input": [TEXT] * 8}
    for _ in range(3):
        assert httpx.post(f"{url}/v1/embeddings", json=ordinary, timeout=60).status_code == 200
    wanted = httpx.post(f"{url}/v1/embeddings", json=ordinary, timeout=60).json()["data"]
    before = resident(process)
    attack = Attack(url)
    try:
        for name, request in requests.items():
            attack.ask(name, request)
        for _ in range(40):
            attack.half(requests["a text of 3.9 MB"])
        for _ in range(10):
            attack.unread(requests["tokens to the limit"])
        quick, size = watched(url, process, SECONDS)
    finally:
        attack.end()
    said = f"/livez {1000 * quick:.0f} ms at load {busy:.1f}, {size - before:+.0f} MB, answers {attack.statuses}"
    assert b"200" in attack.statuses["tokens to the limit"] | attack.statuses["a text of 3.9 MB"], said
    for name in ("a text of 5 MB", "ten million lists", "a name of 30 MB", "a million tokens"):
        assert attack.statuses[name] <= {b"413", b"429", b"closed"}, said
    for name in (
        "a million texts",
        "a name of 3.9 MB",
        "a document of 3.9 MB",
        "not closed",
        "half a character after all",
    ):
        assert attack.statuses[name] <= {b"400", b"429"}, said
    assert quick < P99 * max(1.0, busy), said
    assert size - before < MORE_THAN_START, said
    deadline = time.monotonic() + 90
    while resident(process) - before > MORE_THAN_START / 2:
        assert time.monotonic() < deadline, "the memory does not come back"
        time.sleep(0.5)
    found = httpx.post(f"{url}/v1/embeddings", json=ordinary, timeout=60).json()["data"]
    for row, of in zip(found, wanted, strict=True):
        assert row["embedding"] == pytest.approx(of["embedding"], abs=2e-3)
    print(said)
