"""Requests to one server: connections that are kept, tries again, errors as ours."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any

from zh_retrieval import errors
from zh_retrieval.errors import (
    ClosedError,
    ConfigError,
    InputError,
    MissingExtraError,
    OverloadedError,
    RemoteError,
    UnknownModelError,
    ZhRetrievalError,
)
from zh_retrieval.remote.address import Address
from zh_retrieval.validation import UnscorableQueryError

if TYPE_CHECKING:
    import httpx

_AGAIN = frozenset({408, 429, 502, 503, 504})
_PAUSES = (0.2, 30.0)  # seconds: after the first try, and at most
_CONNECT = 10.0  # seconds
_FIRST_TRIES = 3  # connections that fail before the first answer: the address is wrong rather than the server busy
_WORTH_PACKING = 16_384  # bytes of a body
_TOGETHER = 64  # requests: httpx looks through all that wait for a connection, once for each
_KINDS: dict[str, type[ZhRetrievalError]] = {
    **{name: kind for name, kind in vars(errors).items() if isinstance(kind, type)},
    "UnscorableQueryError": UnscorableQueryError,
}


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
        return _decoded(await self._send("GET", path, None, {}))

    async def post_json(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that answers a body. Raises as `post`."""
        return _decoded(await self.post(path, body))

    async def post(self, path: str, body: dict[str, Any], *, pack: bool = False) -> httpx.Response:
        """Return the answer to a body; `pack` says that the server takes compressed ones.

        Raises:
            ConfigError: The key is missing or wrong.
            RemoteError: The server cannot be reached in time, fails, or answers what is no answer.
            ZhRetrievalError: What the server says, as the class that it names.
        """
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        if pack and len(content) >= _WORTH_PACKING and not self.address.is_near:
            content = await asyncio.to_thread(gzip.compress, content, 1)
            headers["content-encoding"] = "gzip"
        return await self._send("POST", path, content, headers)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._http is not None:
            await self._http.aclose()

    async def _send(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> httpx.Response:
        """Try until it works, the fault is the caller's, or the time is over."""
        end = time.monotonic() + self.address.timeout
        pause = _PAUSES[0]
        for tries in itertools.count(1):
            failure, wait = await self._try(method, path, content, headers, end)
            if not isinstance(failure, Exception):
                return failure
            wait = pause * random.uniform(0.5, 1.0) if wait is None else wait
            if time.monotonic() + wait >= end or (tries >= _FIRST_TRIES and not self._met):
                raise failure
            await asyncio.sleep(wait)
            pause = min(2 * pause, _PAUSES[1])
        raise AssertionError("unreachable")

    async def _try(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], end: float
    ) -> tuple[httpx.Response | ZhRetrievalError, float | None]:
        """Return the answer; or an error after which another try may help, and the seconds the server asks for.

        An error that stays is raised.
        """
        left = max(0.001, end - time.monotonic())
        try:
            response = await asyncio.wait_for(self._asked(method, path, content, headers), left)
        except (asyncio.TimeoutError, self._httpx.TimeoutException):
            raise RemoteError(
                f"{self.address.url} did not answer within {self.address.timeout:g} s. Raise timeout=, or send less."
            ) from None
        except self._httpx.HTTPError as error:
            return RemoteError(f"{self.address.url} cannot be reached: {error or type(error).__name__}."), None
        self._met = True
        if response.is_success:
            return response, None
        failure = _failure(response, self.address)
        if response.status_code in _AGAIN:
            return failure, _asked_for(response)
        raise failure

    async def _asked(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> httpx.Response:
        http = self._connections()
        async with self._turns:
            return await http.request(method, self.address.url + path, content=content, headers=headers)

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
            limits=self._httpx.Limits(max_connections=_TOGETHER, max_keepalive_connections=16, keepalive_expiry=20),
            mounts={f"all://{address.host}": None} if address.is_near else None,  # past any proxy
        )
        return opened


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise RemoteError(
            f"{response.url} answered {response.headers.get('content-type', 'something')!r} instead of JSON: "
            f"{response.text[:80]!r}. Does base_url name the server itself?"
        ) from None


def _failure(response: httpx.Response, address: Address) -> ZhRetrievalError:
    """Return what a refusal means, as the server's own class where it names one of ours."""
    status = response.status_code
    name, message = _said(response)
    if status in (401, 403):
        given = "refused the key" if address.key else "asks for a key"
        return ConfigError(f"{address.url} {given}. Give api_key=, or set ZH_RETRIEVAL_API_KEY.")
    if name in _KINDS:
        return _KINDS[name](message)
    said = f"{address.url} answered {status}: {message}"
    if status == 429:
        return OverloadedError(said)
    if status == 404 and "model" in message.lower():
        return UnknownModelError(said)
    if status in (400, 413, 422):
        return InputError(said)
    hint = (
        " Is the address right, and does the server speak this dialect?" if status in (301, 302, 307, 404, 405) else ""
    )
    return RemoteError(said + hint)


def _said(response: httpx.Response) -> tuple[str, str]:
    """Return the error's class and message, in whatever dialect it is said."""
    try:
        body = response.json()
    except ValueError:
        return "", response.text[:200] or response.reason_phrase
    if not isinstance(body, dict):
        return "", str(body)[:200]
    nested = body.get("error")
    inner = nested if isinstance(nested, dict) else body
    message = inner.get("message") or inner.get("error") or inner.get("detail") or body
    return str(inner.get("type", "")), message if isinstance(message, str) else json.dumps(message)[:400]


def _asked_for(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After`, a number or a date; None where nothing is said."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
