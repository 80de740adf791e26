"""A real uvicorn on a free loopback port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from zh_retrieval.server.app import App
from zh_retrieval.server.host import Host
from zh_retrieval.server.settings import Settings


class QuietHost(Host):
    """Leaves the process's signals alone: only the main thread may set them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """A server that is ready."""

    def __init__(self, settings: Settings, *, wait: bool = True) -> None:
        self.app = App(settings)
        self.ready = threading.Event()
        self.host = QuietHost(self.app, "127.0.0.1", 0, 5, self._announced)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.host.serve()), daemon=True)
        self.thread.start()
        if wait:
            assert self.ready.wait(60)

    def _announced(self, _: str) -> None:
        self.ready.set()

    @property
    def url(self) -> str:
        return self.host.url

    def post(self, path: str, body: Any, **keywords: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **keywords)

    def get(self, path: str, **keywords: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **keywords)

    def stop(self) -> None:
        self.host.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    server = Server(settings)
    try:
        yield server
    finally:
        server.stop()
