"""The app under uvicorn: announces itself, drains at SIGTERM, ends at the second signal."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from zh_retrieval.errors import ConfigError
from zh_retrieval.server.app import App
from zh_retrieval.server.http import unix
from zh_retrieval.server.http.connection import limited
from zh_retrieval.server.models.threads import still_running

logger = logging.getLogger(__name__)

_KEPT = 75  # seconds that an idle connection is kept: longer than clients and proxies do, so that these close first
_TICK = 0.05  # seconds between two looks at what is under way
_GOODBYE = 0.5  # seconds in which what was not done in time is told so
_LAST = 1.5  # seconds after the drain's end at which the process is gone, whatever its threads do
_HEADER_BYTES = 65_536
_TAKEN = (errno.EADDRINUSE, errno.EACCES)
_OTHER_FILES = 256  # that a process has open beside its connections


class Host(uvicorn.Server):
    """One process that serves an app.

    Args:
        app: What to serve.
        host: Address to listen on.
        port: Port; 0 is any free one.
        drain: Seconds that requests under way get after a signal.
        announce: Called with "http://HOST:PORT" when the models are ready.
        unix_socket: File to listen on instead of host and port; the user and the group may use it.
        max_connections: Connections at a time; beyond, the one that idles longest is closed, or the new one refused.

    Raises:
        ConfigError: The port, the drain or the number of connections makes no sense.
    """

    def __init__(
        self, app: App, host: str, port: int, drain: float, announce: Callable[[str], None],
        max_connections: int = 1000, unix_socket: str | None = None,
    ) -> None:  # fmt: skip
        _check(port, drain, max_connections)
        super().__init__(
            uvicorn.Config(
                app, host, port, lifespan="on", log_config=None, access_log=False, server_header=False, ws="none",
                http=limited(max_connections, app.settings.transfer_seconds, app.connection_refused),
                timeout_keep_alive=_KEPT, backlog=2048, h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._app = app
        self._drain = drain
        self._announce = announce
        self._most = max_connections
        self._unix_socket = unix_socket
        self._signals = 0
        self._signal = ""
        self._first_signal = asyncio.Event()
        self._whole_process = False
        self.failed = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def status(self) -> int:
        """Return the exit status: 0 where a signal ended it, whatever was left; 2 where it did not start."""
        return 0 if self.started and not self.failed else 2

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes. The process is gone two seconds after the drain's end, whatever it computes.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        self._whole_process = True
        _allow_files(self._most + _OTHER_FILES)
        file = self._unix_socket
        listening = sockets or ([unix.listening(file)] if file else _listening(self.config.host, self.config.port))
        try:
            super().run(listening)
        except SystemExit:  # uvicorn's, where the app does not start: the log says why
            self.failed = True
        finally:
            for one in listening:
                one.close()
            if file:
                unix.forget(file)
        if still_running():  # an interpreter that ends under a thread in native code is aborted
            _leave(self.status)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second. The exit status is 0: ending was asked for."""
        self._signals += 1
        self._signal = signal.Signals(sig).name
        if self._signals > 1 or not self.started:
            self.should_exit = self.force_exit = True
            self._end_process_in(_LAST)
            return
        self._app.drain()
        self._first_signal.set()
        self._end_process_in(self._drain + _LAST)

    def _end_process_in(self, seconds: float) -> None:
        if self._whole_process:
            timer = threading.Timer(seconds, _leave, (0,))
            timer.daemon = True
            timer.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and watch over the models and the end."""
        if self._whole_process and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self.handle_exit)  # under nohup it stays ignored
        await super().startup(sockets)
        if self.started:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._announced()), loop.create_task(self._ended())]

    @property
    def url(self) -> str:
        """Return where the server listens."""
        if self._unix_socket is not None:
            return f"unix:{self._unix_socket}"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def _busy(self) -> bool:
        """Return True while requests are under way, or answers that were not taken."""
        return self._app.busy or any(getattr(line, "unsent", 0) for line in self.server_state.connections)

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
        begin = time.monotonic()
        logger.info(
            "%s: %d requests are under way and have %g s; no more are taken",
            self._signal, self._app.under_way, self._drain,
        )  # fmt: skip
        await asyncio.sleep(_TICK)
        if not await self._quiet(begin + self._drain):
            await self._break_off()
        logger.info("Ending after %.1f s", time.monotonic() - begin)
        self.should_exit = True

    async def _quiet(self, end: float) -> bool:
        """Wait until nothing is under way; False if something still is at `end` (monotonic seconds)."""
        while self._busy and time.monotonic() < end:  # noqa: ASYNC110  (counts, kept without waking anybody)
            await asyncio.sleep(_TICK)
        return not self._busy

    async def _break_off(self) -> None:
        """Tell the clients of what is not done, and drop what they do not take."""
        logger.warning("%d requests were not done, or not taken, in %g s", len(self.server_state.tasks), self._drain)
        for task in tuple(self.server_state.tasks):
            task.cancel()
        await self._quiet(time.monotonic() + _GOODBYE)
        for line in tuple(self.server_state.connections):
            if getattr(line, "unsent", 0) or self._app.busy:
                line.transport.abort()


def _check(port: int, drain: float, max_connections: int) -> None:
    if type(port) is not int or not 0 <= port <= 65_535:
        raise ConfigError(f"port is {port!r}, expected 0 to 65535.")
    if not 0 <= drain <= 86_400:  # NaN is neither
        raise ConfigError(f"drain is {drain!r}, expected seconds from 0 to 86400.")
    if type(max_connections) is not int or max_connections < 1:
        raise ConfigError(f"max_connections is {max_connections!r}, expected a positive whole number.")


def _listening(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host; those that this machine does not have are passed over."""
    found: list[socket.socket] = []
    try:
        places = dict.fromkeys(
            (family, place[:2]) for family, _, _, _, place in
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host[:200]!r}: {error.strerror}. Choose another --host.") from error
    problem: OSError | None = None
    for family, place in places:
        try:
            found.append(socket.create_server(place, family=family, backlog=2048))
        except OSError as error:
            problem = error
            if error.errno in _TAKEN:
                break
    if not found or (problem is not None and problem.errno in _TAKEN):
        for opened in found:
            opened.close()
        said = os.strerror(problem.errno) if problem is not None and problem.errno else str(problem)
        raise ConfigError(f"Cannot listen on {host[:200]} port {port}: {said}. Choose another --port or --host.")
    return found


def _allow_files(count: int) -> None:
    """Raise the process's limit of open files to so many, if it may."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
            )


def _leave(status: int) -> None:
    """End the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)
