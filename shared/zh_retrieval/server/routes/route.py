"""One line of a route table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zh_retrieval.server.exchange import Handler
from zh_retrieval.server.http.problems import ErrorFormat
from zh_retrieval.server.requests.request import Requests


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what answers there; its first docstring line is its documentation.

    Attributes:
        method: "GET" or "POST".
        path: As Starlette writes it.
        handler: Gives the answer.
        error_format: How errors are said.
        requests: What a body may hold; None for GET.
        example: A body, for the documentation.
        public: Whether no key is asked for.
        work: Whether it needs loaded models.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    error_format: ErrorFormat
    requests: Requests | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False
    work: bool = True
