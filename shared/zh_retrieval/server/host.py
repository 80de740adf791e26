"""The app under uvicorn: announces itself, drains at SIGTERM, ends at the second signal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from zh_retrieval.server.app import App

logger = logging.getLogger(__name__)

_KEPT = 75  # seconds that an idle connection is kept: longer than clients and proxies do, so that these close first
_TICK = 0.05  # seconds between two looks at what is under way


class Host(uvicorn.Server):
    """One process that serves an app.

    Args:
        app: What to serve.
        host: Address to listen on.
        port: Port; 0 is any free one.
        drain: Seconds that requests under way get after a signal.
        announce: Called with "http://HOST:PORT" when the models are ready.
    """

    def __init__(self, app: App, host: str, port: int, drain: float, announce: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app, host, port, lifespan="on", log_config=None, access_log=False, server_header=False,
                timeout_graceful_shutdown=max(1, round(drain)), timeout_keep_alive=_KEPT, backlog=2048,
            )
        )  # fmt: skip
        self._app = app
        self._drain = drain
        self._announce = announce
        self._signals = 0
        self._first_signal = asyncio.Event()
        self.failed = False
        self._tasks: list[asyncio.Task[None]] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second. The exit status is 0: ending was asked for."""
        self._signals += 1
        if self._signals > 1 or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._app.drain()
        self._first_signal.set()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and watch over the models and the end."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._announced()), loop.create_task(self._ended())]

    @property
    def url(self) -> str:
        """Return where the server listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _announced(self) -> None:
        logger.info("Listening on %s, loading models", self.url)
        try:
            await self._app.ready()
        except Exception:  # said in the log
            self.should_exit = self.failed = True
        else:
            self._announce(self.url)

    async def _ended(self) -> None:
        """After a signal, keep listening (so that readiness can say 503) until nothing is under way."""
        await self._first_signal.wait()
        end = time.monotonic() + self._drain
        await asyncio.sleep(_TICK)
        while self._app.busy and time.monotonic() < end:  # noqa: ASYNC110  (a count, kept without waking anybody)
            await asyncio.sleep(_TICK)
        self.should_exit = True
