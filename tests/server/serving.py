"""A real uvicorn on a free loopback port, in a thread of the test's process, what it serves, and who asks."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np

from zh_retrieval.errors import OverloadedError
from zh_retrieval.server.app import App
from zh_retrieval.server.host import Host
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder


class QuietHost(Host):
    """Leaves the process's signals alone: only the main thread may set them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """A server that is ready."""

    def __init__(self, settings: Settings, *, wait: bool = True, **limits: Any) -> None:
        self.app = App(settings)
        self.ready = threading.Event()
        self.host = QuietHost(self.app, "127.0.0.1", 0, 5, self._announced, **limits)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.host.serve()), daemon=True)
        self.thread.start()
        if wait:
            assert self.ready.wait(60)

    def _announced(self, _: str) -> None:
        self.ready.set()

    @property
    def url(self) -> str:
        return self.host.url

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a connection that says nothing yet."""
        line = socket.socket()
        if receive_buffer is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        line.settimeout(30)
        line.connect(("127.0.0.1", int(self.url.rpartition(":")[2])))
        return line

    def post(self, path: str, body: Any, **keywords: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **keywords)

    def get(self, path: str, **keywords: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **keywords)

    def stop(self) -> None:
        self.host.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


def head(path: str, length: int, *more: str) -> bytes:
    """Return a POST's line and headers."""
    lines = (f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}", *more, "", "")
    return "\r\n".join(lines).encode()


def answered(line: socket.socket) -> bytes:
    """Return one whole answer."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += line.recv(65_536)
    size = re.search(rb"content-length: (\d+)", answer)
    assert size is not None
    whole = answer.index(b"\r\n\r\n") + 4 + int(size[1])
    while len(answer) < whole:
        answer += line.recv(65_536)
    return answer


def until_closed(line: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    with suppress(ConnectionError):
        while part := line.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@contextmanager
def serving(settings: Settings, **limits: Any) -> Iterator[Server]:
    server = Server(settings, **limits)
    try:
        yield server
    finally:
        server.stop()


class HeldEncoder(FakeEncoder):
    """Holds every call until it is let go, refuses more than `room` at once, and can be broken."""

    def __init__(self, *, holds: bool = True, room: int = 1000) -> None:
        super().__init__()
        self.holds, self.room, self.under_way, self.refused, self.cancelled = holds, room, 0, 0, 0
        self.fault: Callable[[np.ndarray], np.ndarray] = lambda rows: rows

    async def aencode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
        if self.under_way >= self.room:
            self.refused += 1
            raise OverloadedError("Too much waits.")
        self.under_way += 1
        try:
            while self.holds:  # noqa: ASYNC110  (set by another thread)
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        return self.encode_documents(texts)

    def encode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
        return self.fault(super().encode_documents(texts))


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Look every hundredth of a second until something is so; it must be within `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def texts_wait(url: str, **headers: str) -> bool:
    """Return True if a server says that texts wait to be computed."""
    return re.search(r"queue_tokens\{.*\} [1-9]", httpx.get(f"{url}/metrics", headers=headers).text) is not None


async def flood(url: str, paths: list[tuple[str, dict[str, object]]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        return await asyncio.gather(*(client.post(path, json=body) for path, body in paths))
