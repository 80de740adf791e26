"""The bodies of requests: received and unpacked within limits, read beside the event loop where they are large."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.types import Receive

from zh_retrieval.server.http.problems import RequestError

T = TypeVar("T")

_LARGE = 65_536  # bytes that are read on the event loop at most
_PAUSE = 0.002  # seconds for each large body that is coming: 100 MB/s of all together
_REST = 0.05  # seconds
_MEMBERS = 200  # of a gzip, each of which costs a copy of what follows it


class ClientGoneError(Exception):
    """The client went away before it was answered."""


class Bodies:
    """The bodies of all requests under way.

    Args:
        most: Bytes of one, unpacked; more are refused with 413.
        together: Bytes of all: requests until they are computed, then answers until they are taken. More requests
            are refused with 429.
    """

    def __init__(self, most: int, together: int) -> None:
        self.most = most
        self.together = together
        self.held = 0
        self._coming = 0  # large bodies that are under way
        self._thread = ThreadPoolExecutor(1, "zh-retrieval-bodies")  # one: what a body takes to be read, it takes once

    @contextmanager
    def room(self) -> Iterator[Body]:
        """Yield what takes one body; its bytes count until the end of the block."""
        body = Body(self)
        try:
            yield body
        finally:
            body.answered(0)

    async def beside(self, size: int, work: Callable[[], T]) -> T:
        """Return what work on so many bytes gives, done in the thread if they are many."""
        if size <= _LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, _resting, work)

    async def pause(self) -> None:
        """Wait between two pieces of a large body, the longer the more of them come at once: others ask, too."""
        self._coming += 1
        try:
            await asyncio.sleep(self._coming * _PAUSE)
        finally:
            self._coming -= 1

    def close(self) -> None:
        """Free the thread."""
        self._thread.shutdown(wait=False)


class Body:
    """One body."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def count(self, size: int) -> None:
        """Note that the body has so many bytes now.

        Raises:
            RequestError: 413 if it has too many, 429 if all together have.
        """
        bodies = self._bodies
        if size > bodies.most:
            raise _too_large(bodies.most)
        if bodies.held - self._size + size > bodies.together and size > self._size:
            raise RequestError(429, "The server holds as many bytes of requests as it may. Try again.", "overloaded")
        self.answered(size)

    def answered(self, size: int) -> None:
        """Note that what is kept is an answer of so many bytes now."""
        self._bodies.held += size - self._size
        self._size = size

    async def content(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | bytearray:
        """Return the body, unpacked.

        Raises:
            RequestError: It is too large, or packed in a way that is not known.
            ClientGoneError: The client went away.
        """
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"gzip"):
            raise RequestError(415, "The body's content-encoding is not known. Send it plain, or with gzip.")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._bodies.most):
            raise _too_large(self._bodies.most)
        content = await self._received(receive)
        return content if encoding == b"identity" else await self._unpacked(content)

    async def _unpacked(self, packed: bytes | bytearray) -> bytearray:
        most = self._bodies.most
        content = unpacked(packed, min(most, _LARGE)) if len(packed) <= _LARGE else None
        if content is None:
            content = await self._bodies.beside(most, lambda: unpacked(packed, most))
        if content is None:
            raise _too_large(most)
        self.count(len(content))
        return content

    async def _received(self, receive: Receive) -> bytearray:
        content = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            self.count(len(content) + len(part))
            content += part
            more = message.get("more_body", False)
            if more and len(content) > _LARGE:
                await self._bodies.pause()
        return content

    async def read(self, work: Callable[[], T]) -> T:
        """Return what work on the body gives, done beside the event loop if the body is large."""
        return await self._bodies.beside(self._size, work)


def _resting(work: Callable[[], T]) -> T:
    """Return what work gives, after as long a rest: one call of a decoder holds Python's lock until it has ended."""
    begin = time.perf_counter()
    try:
        return work()
    finally:
        time.sleep(min(_REST, time.perf_counter() - begin))


def unpacked(content: bytes | bytearray, most: int) -> bytearray | None:
    """Return what gzip's members hold; None if that is more than `most` bytes.

    Raises:
        RequestError: It is no gzip, or not all of one.
    """
    found = bytearray()
    for _ in range(_MEMBERS):
        if not content:
            return found
        stream = zlib.decompressobj(wbits=31)
        try:
            found += stream.decompress(content, most - len(found) + 1)
        except zlib.error as error:
            raise RequestError(400, f"The body is no gzip: {error}.") from None
        if len(found) > most:
            return None
        if not stream.eof:
            raise RequestError(400, "The body's gzip ends too early.")
        content = stream.unused_data
    raise RequestError(400, f"The body's gzip has more than {_MEMBERS} members. Pack it as one.")


def _too_large(most: int) -> RequestError:
    return RequestError(
        413, f"The body has more than max_body_bytes={most} of this server. Split it, or start the server with a "
        "higher --max-body-bytes.", "body_too_large",
    )  # fmt: skip
