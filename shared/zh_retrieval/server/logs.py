"""Requests in the log, as text or as JSON."""

from __future__ import annotations

import json
import logging
from typing import Literal

_FIELDS = ("request_id", "route", "status", "milliseconds")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = {"time": self.formatTime(record), "level": record.levelname, "message": record.getMessage()}
        said |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def log_requests(form: Literal["text", "json"] | None) -> None:
    """Log every request on standard error; None leaves the log as it is, which shows failures only."""
    if form is None:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("zh_retrieval")
    package.setLevel(logging.INFO)
    package.handlers = [handler]
    package.propagate = False
