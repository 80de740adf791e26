"""A server process beside the soak, asked all the time as clients do: rightly, wrongly, and leaving in the middle."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from tests.soak.kinds import Kind, WrongResultError

if TYPE_CHECKING:
    from tests.soak.state import Soak

MODEL = "e5-small-zh"
DRAIN = 10
GROWTH = 1.15  # of the server's resident memory, over what it was after the warm-up
ALIVE = 2.0  # seconds in which /livez answers beside everything else
_HALF = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b'{"input": ["' + b"a" * 200_000


class ServerBeside:
    """The process and the threads that ask it; failures go to the soak. Use as a context manager."""

    def __init__(self, soak: Soak, clients: int = 3) -> None:
        command = [sys.executable, "-m", "zh_retrieval.cli.main", "serve", "--port", "0", "--model", MODEL]
        limits = ["--dtype", "float32", "--threads", "1", "--drain", str(DRAIN), "--transfer-seconds", "5"]
        self._soak = soak
        self._kind: Kind = next(kind for kind in soak.kinds if kind.label == "float32")
        self._process = subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._url = self._process.stdout.readline().strip()
        self._over = threading.Event()
        self._rests: list[int] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(clients)]

    def __enter__(self) -> ServerBeside:
        for thread in self._threads:
            thread.start()
        return self

    def rest(self) -> None:
        """Note the server's memory after a round."""
        if self._process.poll() is not None:
            self._soak.fail(f"the server beside ended with {self._process.returncode}", None)
            return
        self._rests.append(psutil.Process(self._process.pid).memory_info().rss)

    def __exit__(self, *_: object) -> None:
        """Tell it to end while it is asked: it must be gone in time, and what it took must be answered."""
        begin = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(DRAIN + 20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = -9
        seconds = time.monotonic() - begin
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        if status != 0 or seconds > DRAIN + 2:
            self._soak.fail(f"the server beside ended with {status}, {seconds:.1f} s after SIGTERM", None)
        if len(self._rests) > 3 and self._rests[-1] > GROWTH * self._rests[2]:
            megabytes = [f"{rest / 1e6:.0f}" for rest in self._rests]
            self._soak.fail(f"the server beside grew: {' '.join(megabytes)} MB", None)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, number: int) -> None:
        choose = random.Random(number)
        actions = (self._vectors, self._vectors, self._vectors, self._wrong, self._leaving, self._half, self._alive)
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._over.is_set():
                action = choose.choice(actions)
                key = self._soak.begin(f"server {action.__name__.strip('_')}")
                outcome = ""
                try:
                    action(client, choose)
                except httpx.TransportError as error:
                    outcome = " (ended)"
                    if self._process.poll() is None and not isinstance(error, httpx.ReadTimeout):
                        time.sleep(0.5)
                        if self._process.poll() is None and not self._drains(client):
                            self._soak.fail(action.__name__, error)
                except BaseException as error:
                    outcome = " (failed)"
                    self._soak.fail(f"server {action.__name__}", error)
                self._soak.end(key, outcome)
                if outcome:
                    self._over.wait(0.5)

    def _drains(self, client: httpx.Client) -> bool:
        try:
            return client.get("/readyz").status_code == 503
        except httpx.TransportError:
            return True

    def _vectors(self, client: httpx.Client, choose: random.Random) -> None:
        method = choose.choice(("encode_queries", "encode_documents"))
        side = "query" if method == "encode_queries" else "document"
        texts = self._kind.inputs[method]
        rows = [row for row in (choose.randrange(len(texts)) for _ in range(choose.randint(1, 16))) if texts[row]]
        if not rows:
            return
        answer = self._post(client, {"input": [texts[row] for row in rows], "input_type": side})
        if answer is not None:
            self._kind.check(method, rows, [entry["embedding"] for entry in answer["data"]])

    def _post(self, client: httpx.Client, body: dict[str, Any]) -> Any:
        answer = client.post("/v1/embeddings", json=body)
        if answer.status_code in (429, 503):  # full, or told to end
            return None
        if answer.status_code != 200:
            raise WrongResultError(f"the server answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def _wrong(self, client: httpx.Client, choose: random.Random) -> None:
        body: Any = choose.choice(({"input": [[1, 2]]}, {"input": 5}, {}, {"input": ["好"], "model": "gpt"}))
        answer = client.post("/v1/embeddings", json=body)
        if answer.status_code not in (400, 404, 429, 503):
            raise WrongResultError(f"a wrong request was answered {answer.status_code}")

    def _leaving(self, client: httpx.Client, choose: random.Random) -> None:
        try:
            httpx.post(f"{self._url}/v1/embeddings", json={"input": ["茶" * 400] * 40}, timeout=choose.random())
        except httpx.TimeoutException:
            return

    def _half(self, client: httpx.Client, choose: random.Random) -> None:
        """Send half a body; leave, or let the server end it."""
        host, port = self._url.removeprefix("http://").split(":")
        try:
            with socket.create_connection((host, int(port)), timeout=30) as line:
                line.sendall(_HALF)
                if choose.random() < 0.2:
                    line.recv(1000)
        except OSError:
            return

    def _alive(self, client: httpx.Client, choose: random.Random) -> None:
        begin = time.monotonic()
        status = client.get("/livez").status_code
        seconds = time.monotonic() - begin
        if status != 200 or seconds > ALIVE:
            raise WrongResultError(f"/livez answered {status} after {seconds:.2f} s")
