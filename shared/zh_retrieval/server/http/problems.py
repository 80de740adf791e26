"""Errors, as each dialect says them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from zh_retrieval.errors import (
    ClosedError,
    ConfigError,
    DeviceMemoryError,
    InputError,
    OverloadedError,
    UnknownModelError,
    WrongTaskError,
)


class RequestError(Exception):
    """A request that is refused before any model sees it.

    Attributes:
        status: Of the answer.
        message: What was given, what was expected, what to do.
        code: A word for programs.
        param: The field at fault.
        error_format: How it is said; None: as the route says errors.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.error_format: ErrorFormat | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong.

    Attributes:
        status: As in our own protocol; dialects may have another.
        kind: The class of the error.
        message: For people.
        code: A word for programs.
        param: The field at fault.
        retry_after: Seconds after which another try may work.
        ours: Whether the fault is the server's.
    """

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None

    @property
    def ours(self) -> bool:
        return self.status >= 500


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModelError, 404), (OverloadedError, 429), (ClosedError, 503), (DeviceMemoryError, 500),
    (InputError, 400), (ConfigError, 400), (WrongTaskError, 400),
)  # fmt: skip
_KINDS = {401: "ConfigError", 404: "UnknownModelError", 429: "OverloadedError", 503: "ClosedError"}


def problem(error: BaseException, retry_after: int) -> Problem:
    """Return what an error means to a client. What we did not expect is said without details: the log has them."""
    again = retry_after if isinstance(error, (OverloadedError, ClosedError)) else None
    if isinstance(error, RequestError):
        again = retry_after if error.status in (429, 503) else None
        kind = _KINDS.get(error.status, "InputError")
        return Problem(error.status, kind, error.message, error.code, error.param, again)
    for kind_of, status in _STATUS:
        if isinstance(error, kind_of):
            return Problem(status, type(error).__name__, str(error), retry_after=again)
    return Problem(500, type(error).__name__, f"The model failed with {type(error).__name__}. See the server's log.")


ErrorFormat = Callable[[Problem], tuple[int, Any]]
"""An error to a status and a body, as the clients of one dialect understand it."""


def own(error: Problem) -> tuple[int, Any]:
    """Our own protocol: the class of the error, so that the client raises the same."""
    return error.status, {"error": {"type": error.kind, "message": error.message}}


def openai(error: Problem) -> tuple[int, Any]:
    """OpenAI: nested, with `type` and `code`."""
    kinds = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.ours else "invalid_request_error")
    codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    code = error.code or codes.get(error.status)
    return error.status, {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def tei(error: Problem) -> tuple[int, Any]:
    """TEI: flat; 422 for what does not validate, 424 for a failure of the model."""
    statuses = {400: (422, "Validation"), 422: (422, "Validation"), 429: (429, "Overloaded"), 503: (503, "Unhealthy")}
    status, kind = statuses.get(error.status, (error.status, "Validation"))
    if error.status == 500:
        status, kind = 424, "Backend"
    if error.code == "empty":
        status, kind = 400, "Empty"
    return status, {"error": error.message, "error_type": kind}


def rerank(error: Problem) -> tuple[int, Any]:
    """Jina (`detail`) and Cohere (`message`), whose clients share paths."""
    return error.status, {"message": error.message, "detail": error.message}


def ollama(error: Problem) -> tuple[int, Any]:
    """Ollama: a text."""
    return error.status, {"error": error.message}


def answer(error: Problem, error_format: ErrorFormat) -> Response:
    """Return the refusal as a dialect has it."""
    status, body = error_format(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(orjson.dumps(body), status, headers, "application/json")
