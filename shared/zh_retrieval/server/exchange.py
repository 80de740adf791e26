"""One request and its answer: key, body, work while the client is there, errors in the route's dialect."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from zh_retrieval.errors import ZhRetrievalError
from zh_retrieval.server.problems import Dialect, RequestError, answer, problem
from zh_retrieval.server.running import Running

logger = logging.getLogger(__name__)

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LARGE = 65_536  # bytes of a compressed body that are decompressed in a thread


class ClientGoneError(Exception):
    """The client went away before it was answered."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a handler gets: the JSON object that was sent ({} for GET), the parameters of the path, the headers."""

    running: Running
    body: dict[str, Any]
    path: dict[str, Any]
    headers: Mapping[bytes, bytes]


Handler = Callable[[Incoming], Awaitable[Response]]


class Exchange:
    """A route, as an ASGI app.

    Args:
        name: What metrics and logs call the route.
        handler: Gives the answer.
        dialect: How errors are said.
        running: The server.
        public: Whether no key is asked for.
        work: Whether it needs loaded models.
    """

    def __init__(
        self, name: str, handler: Handler, dialect: Dialect, running: Running, *, public: bool, work: bool
    ) -> None:
        self._name = name
        self._handler = handler
        self._dialect = dialect
        self._running = running
        self._public = public
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        identifier = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        metrics = self._running.metrics
        metrics.under_way += 1
        try:
            response = await self._answered(scope, headers, receive, start)
            response.headers["x-request-id"] = identifier
            writing = time.perf_counter()
            await response(scope, receive, send)
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
            "%s %s %d %.2f ms %s", scope["method"], self._name, status, milliseconds, identifier,
            extra={"request_id": identifier, "route": self._name, "status": status, "milliseconds": milliseconds},
        )  # fmt: skip

    async def _answered(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, start: float) -> Response:
        running = self._running
        body: dict[str, Any] = {}
        try:
            if not self._public:
                running.keys.check(headers.get(b"authorization"))
            if self._work:
                running.health.check_work()
            posted = scope["method"] == "POST"
            limit = running.settings.max_body_bytes
            if posted:
                body = await _object(headers, receive, limit)
            computing = time.perf_counter()
            running.metrics.stages.labels(self._name, "read").observe(computing - start)
            work = self._handled(Incoming(running, body, scope.get("path_params", {}), headers))
            response = await (while_connected(work, receive) if posted else work)
            seconds = time.perf_counter() - computing
            running.metrics.stages.labels(self._name, "compute").observe(seconds)
            response.headers["server-timing"] = f"compute;dur={1000 * seconds:.2f}"
            return response
        except ClientGoneError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):  # the host ends, or it knows that the client went away
                if not running.health.draining:
                    raise
                error = RequestError(503, "The server ended before this was done. Ask again.", "not_ready")
            found = problem(error, running.metrics.retry_after())
            running.metrics.errors.labels(found.kind).inc()
            if not isinstance(error, (RequestError, ZhRetrievalError)) or found.status == 500:
                logger.error("%s failed", self._name, exc_info=error)
            return answer(found, self._dialect, body)

    async def _handled(self, incoming: Incoming) -> Response:
        return await self._handler(incoming)


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


async def _object(headers: dict[bytes, bytes], receive: Receive, limit: int) -> dict[str, Any]:
    content = await _content(receive, limit)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding == b"gzip":
        content = (
            await asyncio.to_thread(_unpacked, content, limit) if len(content) > _LARGE else _unpacked(content, limit)
        )
    elif encoding != b"identity":
        raise RequestError(415, "The body's content-encoding is not known. Send it plain, or with gzip.")
    return parsed(content)


async def _content(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        parts.append(message.get("body", b""))
    return b"".join(parts)


def _unpacked(content: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        unpacked = stream.decompress(content, limit + 1)
    except zlib.error as error:
        raise RequestError(400, f"The body is no gzip: {error}.") from None
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise RequestError(400, "The body's gzip ends too early.")
    return unpacked


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413, f"The body has more than max_body_bytes={limit} of this server. Split it, or start the server with a "
        "higher --max-body-bytes.", "body_too_large",
    )  # fmt: skip


def parsed(content: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        RequestError: 400, it holds something else.
    """
    try:
        found = orjson.loads(content)
    except ValueError:
        try:  # lone surrogates, which are refused later with their index
            found = json.loads(content, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"The body is no JSON: {str(error)[:200]}.", "invalid_json") from None
    if not isinstance(found, dict):
        raise RequestError(400, f"The body is a JSON {type(found).__name__}, expected an object.", "invalid_json")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
