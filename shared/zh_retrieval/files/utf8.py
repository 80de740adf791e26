"""Text that goes into files."""

from __future__ import annotations

import json
from typing import Any


def writable(text: str) -> str:
    """Return text that can be written as UTF-8: a lone surrogate becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: object) -> str:
    """Return JSON that can be written as UTF-8; a lone surrogate in it stays the escape that it was.

    Dates are ISO 8601, bytes are text, decimals and what else JSON does not know are what str() says.
    """
    return writable(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
