"""One request and its answer: key, body, work while the client is there, errors in the route's dialect."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zh_retrieval.errors import ZhRetrievalError
from zh_retrieval.server.http.body import Body, ClientGoneError
from zh_retrieval.server.http.problems import ErrorFormat, RequestError, answer, problem
from zh_retrieval.server.operation import logs
from zh_retrieval.server.requests.request import Request, Requests, read
from zh_retrieval.server.running import Running

logger = logging.getLogger(__name__)

_PIECE = 262_144  # bytes of an answer that are given to the connection at once
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a handler gets: what was asked (for POST), ASGI's scope, the headers."""

    running: Running
    asked: Any
    scope: Scope
    headers: Mapping[bytes, bytes]


Handler = Callable[[Incoming], Awaitable[Response]]


class Exchange:
    """A route, as an ASGI app.

    Args:
        name: What metrics and logs call the route.
        handler: Gives the answer.
        requests: What its bodies may hold; None: it has none.
        error_format: How errors are said.
        running: The server.
        public: Whether no key is asked for.
        work: Whether it needs loaded models.
    """

    def __init__(
        self, name: str, handler: Handler, requests: Requests | None, error_format: ErrorFormat, running: Running, *,
        public: bool, work: bool,
    ) -> None:  # fmt: skip
        self._name = name
        self._handler = handler
        self._requests = requests
        self._error_format = error_format
        self._running = running
        self._public = public
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        identifier = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        facts = logs.begin(identifier, headers.get(b"traceparent", b""))
        metrics = self._running.metrics
        metrics.under_way += 1
        try:
            with self._running.bodies.room() as body:
                response = await self._answered(scope, headers, receive, body, start)
                response.headers["x-request-id"] = identifier
                writing = time.perf_counter()
                body.answered(len(response.body))
                await delivered(response, send, self._running.settings.transfer_seconds)
            metrics.stages.labels(self._name, "write").observe(time.perf_counter() - writing)
            status = response.status_code
        except ClientGoneError:
            metrics.dropped.inc()
            status = 499
        finally:
            metrics.under_way -= 1
        metrics.requests.labels(self._name, str(status)).inc()
        milliseconds = round(1000 * (time.perf_counter() - start), 2)
        logger.info(
            "%s %s %d %.2f ms", scope["method"], self._name, status, milliseconds,
            extra={"facts": {**facts, "route": self._name, "status": status, "milliseconds": milliseconds}},
        )  # fmt: skip

    async def _answered(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, body: Body, start: float
    ) -> Response:
        running = self._running
        error_format = self._error_format
        try:
            if not self._public:
                running.keys.check(headers.get(b"authorization"))
            if self._work:
                running.health.check_work()
            asked = None if self._requests is None else await self._asked(self._requests, body, headers, receive)
            error_format = type(asked).error_format or error_format if asked else error_format
            computing = time.perf_counter()
            running.metrics.stages.labels(self._name, "read").observe(computing - start)
            work = self._handled(Incoming(running, asked, scope, headers))
            response = await (while_connected(work, receive) if asked else work)
            seconds = time.perf_counter() - computing
            running.metrics.stages.labels(self._name, "compute").observe(seconds)
            response.headers["server-timing"] = f"compute;dur={1000 * seconds:.2f}"
            return response
        except ClientGoneError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            return self._refusal(error, error_format)

    async def _asked(self, requests: Requests, body: Body, headers: dict[bytes, bytes], receive: Receive) -> Request:
        """Return what a body asks; nothing else of it is kept."""
        content = await body.content(headers, receive)
        return await body.read(lambda: read(requests, content, self._running.settings.max_texts))

    def _refusal(self, error: BaseException, error_format: ErrorFormat) -> Response:
        if isinstance(error, asyncio.CancelledError):  # the host ends, or it knows that the client went away
            if not self._running.health.draining:
                raise error
            error = RequestError(503, "The server ended before this was done. Ask again.", "not_ready")
        metrics = self._running.metrics
        found = problem(error, metrics.retry_after())
        metrics.failed(found)
        if not isinstance(error, (RequestError, ZhRetrievalError)) or found.status == 500:
            logger.error("%s failed", self._name, exc_info=error)
        return answer(found, getattr(error, "error_format", None) or error_format)

    async def _handled(self, incoming: Incoming) -> Response:
        return await self._handler(incoming)


async def delivered(response: Response, send: Send, seconds: float) -> None:
    """Send an answer in pieces, each when the client has taken the one before.

    Raises:
        ClientGoneError: It did not take all of it in so many seconds.
    """

    async def sent() -> None:
        start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        await send(start)
        content = memoryview(response.body)
        for first in range(0, len(content), _PIECE):
            more = first + _PIECE < len(content)
            piece = bytes(content[first : first + _PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if not content:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    if len(response.body) <= _PIECE:
        await sent()
        return
    try:
        await asyncio.wait_for(sent(), seconds + 1)  # a client that takes nothing is dropped by its connection before
    except asyncio.TimeoutError:
        raise ClientGoneError from None


async def while_connected(work: Coroutine[Any, Any, Response], receive: Receive) -> Response:
    """Return what work gives; cancel it when the client goes away, so that its texts leave the queue.

    Raises:
        ClientGoneError: It went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
