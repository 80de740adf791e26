"""What a server answered, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zh_retrieval import errors
from zh_retrieval.errors import (
    ConfigError,
    InputError,
    OverloadedError,
    RemoteError,
    UnknownModelError,
    ZhRetrievalError,
)
from zh_retrieval.remote.address import Address
from zh_retrieval.validation import UnscorableQueryError

_SHOWN = 1000  # characters of a server's message
_LEAST_HIDDEN = 6  # characters of a key: a shorter one is part of ordinary words
_KINDS: dict[str, type[ZhRetrievalError]] = {
    **{name: kind for name, kind in vars(errors).items() if isinstance(kind, type)},
    "UnscorableQueryError": UnscorableQueryError,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end: status, headers with names in lower case, the body.

    `key` is what the request was sent with: gateways repeat it in their refusals, no message of ours does.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    key: str | None = field(default=None, repr=False)

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            RemoteError: It is none.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise RemoteError(
                f"{self.url} answered {self.headers.get('content-type', 'something')!r} instead of JSON: "
                f"{self._text(80)!r}. Does base_url name the server itself?"
            ) from None

    def failure(self, address: Address) -> ZhRetrievalError:
        """Return what a refusal means, as the server's own class where it names one of ours."""
        name, message = self._said()
        if self.status in (401, 403):
            given = "refused the key" if address.key else "asks for a key"
            return ConfigError(f"{address.url} {given}. Give api_key=, or set ZH_RETRIEVAL_API_KEY.")
        if name in _KINDS:
            return _KINDS[name](message)
        said = f"{address.url} answered {self.status}: {message}"
        if self.status == 429:
            return OverloadedError(said)
        if self.status == 404 and "model" in message.lower():
            return UnknownModelError(said)
        if self.status in (400, 413, 422):
            return InputError(said)
        wrong = self.status in (301, 302, 307, 308, 404, 405)
        return RemoteError(said + (" Is the address right, and does the server speak this dialect?" if wrong else ""))

    def _said(self) -> tuple[str, str]:
        """Return the error's class and message, in whatever dialect it is said."""
        try:
            body = json.loads(self.content)
        except (ValueError, RecursionError):
            return "", self._text(200) or "nothing more"
        if not isinstance(body, dict):
            return "", self._hidden(str(body))[:200]
        nested = body.get("error")
        inner = nested if isinstance(nested, dict) else body
        message = inner.get("message") or inner.get("error") or inner.get("detail") or body
        if isinstance(message, str):
            return str(inner.get("type", "")), self._hidden(message)[:_SHOWN]
        return str(inner.get("type", "")), self._hidden(json.dumps(message))[:400]

    def _text(self, characters: int) -> str:
        start = self.content[: 4 * (characters + len(self.key or ""))]
        return self._hidden(start.decode("utf-8", errors="replace"))[:characters]

    def _hidden(self, text: str) -> str:
        """Return a server's words without the key, before anything is cut off that would leave a part of it."""
        return text.replace(self.key, "***") if self.key and len(self.key) >= _LEAST_HIDDEN else text
