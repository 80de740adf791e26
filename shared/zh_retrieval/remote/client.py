"""Requests to one server: connections that are kept, tries again, errors as ours."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zh_retrieval.errors import ClosedError, ConfigError, MissingExtraError, RemoteError, ZhRetrievalError
from zh_retrieval.remote.address import Address
from zh_retrieval.remote.backoff import Backoff, retry_after
from zh_retrieval.remote.reply import Reply

if TYPE_CHECKING:
    import httpx

_AGAIN = frozenset({408, 429, 502, 503, 504})
_CONNECT = 10.0  # seconds
_FIRST_TRIES = 3  # connections that fail before the first answer: the address is wrong rather than the server busy
_WORTH_PACKING = 16_384  # bytes of a body
_TOGETHER = 64  # requests: httpx looks through all that wait for a connection, once for each
_LARGEST = 128_000_000  # bytes of an answer: 256 vectors of 4096 numbers, written out, are 25 million
_LARGEST_REFUSAL = 65_536  # bytes that are read of one


@dataclass(frozen=True, slots=True)
class _Again:
    """A failure that can pass, and the seconds that the server asks for."""

    error: ZhRetrievalError
    asked: float | None = None


def import_httpx() -> Any:
    """Return httpx.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError('httpx is not installed. Run: pip install "zh-retrieval[remote]"') from error
    return httpx


class Client:
    """Asks one server. Used in the portal's loop only, which owns the connections."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._httpx = import_httpx()
        self._http: httpx.AsyncClient | None = None
        self._turns = asyncio.Semaphore(_TOGETHER)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._met = False

    async def get(self, path: str) -> Any:
        """Return the JSON that a path has. Raises as `post`."""
        return (await self._send("GET", path, None, {}, _LARGEST)).json()

    async def post_json(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that answers a body. Raises as `post`."""
        return (await self.post(path, body)).json()

    async def post(self, path: str, body: dict[str, Any], *, pack: bool = False, most: int = _LARGEST) -> Reply:
        """Return the answer to a body, of `most` bytes; `pack` says that the server takes compressed ones.

        Raises:
            ConfigError: The key is missing or wrong, or the environment's proxy cannot be used.
            RemoteError: The server cannot be reached in time, fails, or answers what is no answer.
            ZhRetrievalError: What the server says, as the class that it names.
        """
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        if pack and len(content) >= _WORTH_PACKING and not self.address.is_near:
            content = await asyncio.to_thread(gzip.compress, content, 1)
            headers["content-encoding"] = "gzip"
        return await self._send("POST", path, content, headers, most)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._http is not None:
            await self._http.aclose()

    async def _send(self, method: str, path: str, content: bytes | None, headers: dict[str, str], most: int) -> Reply:
        """Try until it works, the fault is the caller's, or the time is over: then it is what the server said last."""
        end = time.monotonic() + self.address.timeout
        backoff, last = Backoff(), None
        for tries in itertools.count(1):
            try:
                left = max(0.001, end - time.monotonic())
                found = await asyncio.wait_for(self._try(method, path, content, headers, most), left)
            except (asyncio.TimeoutError, self._httpx.TimeoutException):
                raise last or RemoteError(
                    f"{self.address.url} did not answer within {self.address.timeout:g} s. "
                    "Raise timeout=, or send less."
                ) from None
            if isinstance(found, Reply):
                return found
            last, wait = found.error, backoff.after(found.asked)
            if time.monotonic() + wait >= end or (tries >= _FIRST_TRIES and not self._met):
                raise last
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _try(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], most: int
    ) -> Reply | _Again:
        """Return the answer, or an error after which another try may help; an error that stays is raised."""
        try:
            reply = await self._asked(method, path, content, headers, most)
        except self._httpx.TimeoutException:
            raise
        except self._httpx.DecodingError:
            raise RemoteError(f"{self.address.url} answered what cannot be decompressed.") from None
        except self._httpx.InvalidURL as error:
            raise ConfigError(f"base_url={self.address.url!r} is no address of a server: {error}.") from None
        except self._httpx.HTTPError as error:
            return _Again(RemoteError(f"{self.address.url} cannot be reached: {error or type(error).__name__}."))
        self._met = True
        if 200 <= reply.status < 300:
            return reply
        failure = reply.failure(self.address)
        if reply.status in _AGAIN:
            return _Again(failure, retry_after(reply.headers.get("retry-after", "")))
        raise failure

    async def _asked(self, method: str, path: str, content: bytes | None, headers: dict[str, str], most: int) -> Reply:
        http, url = self._connections(), self.address.url + path
        async with self._turns, http.stream(method, url, content=content, headers=headers) as response:
            read = bytearray()
            async for part in response.aiter_bytes():
                read += part
                if not response.is_success and len(read) > _LARGEST_REFUSAL:
                    break
                if len(read) > most:
                    raise RemoteError(f"{url} answered with more than {most} bytes. Is it the server that you mean?")
            return Reply(url, response.status_code, response.headers, bytes(read), self.address.key)

    def _connections(self) -> httpx.AsyncClient:
        if self._closed:
            raise ClosedError("The remote model was closed. Load it again.")
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:  # the first request, also of a forked child
            self._loop, self._http, self._turns = loop, self._opened(), asyncio.Semaphore(_TOGETHER)
        return self._http

    def _opened(self) -> httpx.AsyncClient:
        address = self.address
        key = {"authorization": f"Bearer {address.key}"} if address.key else {}
        opened: httpx.AsyncClient = self._httpx.AsyncClient(
            headers={**key, "user-agent": "zh-retrieval"},
            timeout=self._httpx.Timeout(address.timeout, connect=min(_CONNECT, address.timeout)),
            transport=self._transport(),
            trust_env=False,  # the environment's proxies are read below: httpx fails on some that it need not use
        )
        return opened

    def _transport(self) -> httpx.AsyncHTTPTransport:
        address = self.address
        proxy = address.proxy()
        try:
            transport: httpx.AsyncHTTPTransport = self._httpx.AsyncHTTPTransport(
                verify=address.url.startswith("https:"),
                trust_env=not address.is_near,  # SSL_CERT_FILE and SSL_CERT_DIR
                limits=self._httpx.Limits(max_connections=_TOGETHER, max_keepalive_connections=16, keepalive_expiry=20),
                proxy=proxy,
            )
        except (ImportError, ValueError, OSError, self._httpx.InvalidURL) as error:
            if proxy is None:
                raise ConfigError(f"No connection to {address.url} can be opened: {error}.") from error
            scheme = proxy.partition("://")[0]
            raise ConfigError(
                f"The environment names a {scheme}:// proxy for {address.url} that cannot be used "
                f"({type(error).__name__}). Put {address.host} into NO_PROXY, write http:// or socks5:// (which needs: "
                'pip install "httpx[socks]"), or take the proxy out of the environment.'
            ) from None
        return transport
