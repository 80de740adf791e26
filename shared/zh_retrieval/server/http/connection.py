"""One connection of a client, under uvicorn: everything that it makes the server wait for has a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

_HEADER = 30.0  # seconds that a request's line and headers may take
_LINGER = 5.0  # seconds that the rest of a body is thrown away after its answer, so that the client reads the answer
_FULL = b'{"error":{"message":"The server has its --max-connections. Try again.","type":"server_error"}}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


class Connection(H11Protocol):
    """uvicorn's h11 protocol, which bounds headers (64 kB), with deadlines and a limit of connections.

    Attributes:
        most: Connections of a server; `limited` sets it.
        seconds: How long a client may take for an answer; `limited` sets it.
        refused: Told of each connection that was refused; `limited` sets it.
        idle_since: When it last began to wait for a request (monotonic seconds).
    """

    most = 1000
    seconds = 60.0
    refused: Callable[[], None] = staticmethod(lambda: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection; close the one that idles longest if there are too many, or else this one."""
        self.idle_since = time.monotonic()
        self._header: asyncio.TimerHandle | None = None
        self._delivery: asyncio.TimerHandle | None = None
        self._aborted = False
        transport.set_write_buffer_limits(low=0)  # what resumes writing has been taken whole
        if len(self.connections) >= self.most and not _closed_longest_idle(self.connections):
            self.refused()
            transport.write(_REFUSAL)
            super().connection_made(transport)
            transport.close()
            return
        super().connection_made(transport)
        self._await_header()

    @property
    def unsent(self) -> int:
        """Return how many bytes of answers the client has not taken."""
        return 0 if self._aborted else self.transport.get_write_buffer_size()

    @property
    def idle(self) -> bool:
        """Return True if no request is under way, and nothing of an answer is left."""
        return (self.cycle is None or self.cycle.response_complete) and not self.unsent

    def data_received(self, data: bytes) -> None:
        """Take what came, and give what is still to come its deadline."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header()
        elif self.conn.their_state is h11.SEND_BODY:  # answered before the body was whole
            self._linger()
        elif not self.conn.trailing_data[0] and self.timeout_keep_alive_task is None:
            self._stop_header()
            self._wait_for_next()
        else:
            self._await_header()

    def on_response_complete(self) -> None:
        """Watch over the delivery of the answer, and over what is left of the request."""
        super().on_response_complete()
        self.idle_since = time.monotonic()
        if self.unsent:
            self._watch_delivery()
        if not self.transport.is_closing() and self.conn.their_state is h11.SEND_BODY:
            self._linger()

    def pause_writing(self) -> None:
        """Stop writing: the client does not take what is sent."""
        super().pause_writing()
        self._watch_delivery()

    def resume_writing(self) -> None:
        """Write on: the client has taken everything."""
        super().resume_writing()
        self._stop_delivery()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._stop_header()
        self._stop_delivery()
        super().connection_lost(exc)

    def abort(self) -> None:
        """End the connection now, with whatever has not been sent."""
        self._aborted = True
        self.transport.abort()

    def _wait_for_next(self) -> None:
        self.idle_since = time.monotonic()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        if self._header is None:
            self._header = self.loop.call_later(_LINGER, self.transport.close)

    def _should_upgrade(self) -> bool:
        return False  # whoever asks for a WebSocket gets the plain answer

    def _await_header(self) -> None:
        if self._header is None:
            self._header = self.loop.call_later(_HEADER, self._no_header)

    def _no_header(self) -> None:
        logger.info("A request's headers did not come within %g s", _HEADER)
        self.abort()

    def _stop_header(self) -> None:
        if self._header is not None:
            self._header.cancel()
            self._header = None

    def _watch_delivery(self) -> None:
        if self._delivery is None:
            self._delivery = self.loop.call_later(self.seconds, self._not_taken, self.cycle)

    def _stop_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def _not_taken(self, of: object) -> None:
        self._delivery = None
        if not self.unsent:
            return
        if of is not self.cycle:  # that answer was taken; this is the next one's
            self._watch_delivery()
            return
        logger.warning("An answer was not taken within %g s: %d bytes are dropped", self.seconds, self.unsent)
        self.abort()


def limited(most: int, seconds: float, refused: Callable[[], None]) -> type[Connection]:
    """Return the protocol for at most so many connections, whose answers are taken within so many seconds.

    `refused` is called for each connection beyond them.
    """
    limits: dict[str, Any] = {"most": most, "seconds": seconds, "refused": staticmethod(refused)}
    return type("LimitedConnection", (Connection,), limits)


def _closed_longest_idle(connections: Iterable[Any]) -> bool:
    """Close the connection that has waited longest for its next request, if any does."""
    idle = [connection for connection in connections if connection.idle and not connection.transport.is_closing()]
    if not idle:
        return False
    min(idle, key=lambda connection: connection.idle_since).transport.close()
    return True
