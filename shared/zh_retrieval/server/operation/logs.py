"""Requests in the log, as text or as JSON, each line with the id of the request that it belongs to."""

from __future__ import annotations

import json
import logging
import re
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, Literal

_FACTS: ContextVar[dict[str, Any] | None] = ContextVar("zh_retrieval_request", default=None)

_TRACE = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")  # of version 00


def begin(request_id: str, traceparent: bytes = b"") -> dict[str, Any]:
    """Return what is known of the request that this task answers; what it logs from now on has all of it.

    Args:
        request_id: Of the client, or made.
        traceparent: W3C's header: its trace and the client's span are said, if it is valid.
    """
    facts: dict[str, Any] = {"request_id": request_id}
    trace = _TRACE.fullmatch(traceparent)
    if trace and int(trace[1], 16) and int(trace[2], 16):  # zeros are no id
        facts |= {"trace_id": trace[1].decode(), "parent_span_id": trace[2].decode()}
    _FACTS.set(facts)
    return facts


def note(model: str, inputs: int, tokens: int, cut: int, queued: float) -> None:
    """Add work that was done for the request; several calls are summed."""
    facts = _FACTS.get()
    if facts is not None:
        facts["model"] = model
        for name, value in (("inputs", inputs), ("tokens", tokens), ("cut", cut)):
            facts[name] = facts.get(name, 0) + value
        facts["queued_ms"] = round(1000 * queued, 2)


class _Request(logging.Filter):
    """Adds what is known of the request to a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through."""
        if not hasattr(record, "facts"):
            record.facts = _FACTS.get() or {}
        return True


class TextFormatter(logging.Formatter):
    """Time with its zone, message, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.facts_said = "".join(f" {name}={value}" for name, value in _facts(record).items())
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time in ISO 8601, with its zone."""
        return _time(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = {"time": _time(record), "level": record.levelname, "message": record.getMessage(), **_facts(record)}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def log_requests(form: Literal["text", "json"] | None) -> None:
    """Log every request on standard error; None leaves the log as it is, which shows failures only."""
    if form is None:
        return
    handler = logging.StreamHandler()
    handler.addFilter(_Request())
    text = TextFormatter("%(asctime)s %(levelname)s %(message)s%(facts_said)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    for name, level in (("zh_retrieval", logging.INFO), ("uvicorn", logging.ERROR)):
        package = logging.getLogger(name)
        package.setLevel(level)
        package.handlers = [handler]
        package.propagate = False


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "facts", {})
    return found


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
