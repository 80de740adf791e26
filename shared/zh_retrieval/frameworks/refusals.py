"""What pydantic says of an adapter's arguments, as an error of ours that says what to write instead."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from zh_retrieval.errors import ConfigError, ZhRetrievalError
from zh_retrieval.migrating import advice

_HIDDEN = ("api_key", "base_url")  # whose values may be secrets
_SHOWN = 60  # characters of a value


def refusal(cls: str, error: ValidationError, known: Collection[str]) -> ZhRetrievalError:
    """Return a ConfigError of everything that is wrong, or the only error that one of our own checks raised.

    Args:
        cls: The class that was called.
        error: What pydantic raised; no secret of it is in what is returned.
        known: The arguments that there are.
    """
    found = error.errors(include_url=False)
    causes = [entry.get("ctx", {}).get("error") for entry in found]
    ours = [cause for cause in causes if isinstance(cause, ZhRetrievalError)]
    if len(ours) == len(found) == 1:
        only: ZhRetrievalError = ours[0]
        return only
    unknown = {str(entry["loc"][0]): entry["input"] for entry in found if entry["type"] == "extra_forbidden"}
    parts = [_said(cls, entry) for entry in found if entry["type"] != "extra_forbidden"]
    if unknown:
        parts.append(f"{cls} does not take {', '.join(unknown)}. {advice(unknown, known)}")
    return ConfigError(" ".join(parts))


def _said(cls: str, entry: Any) -> str:
    name = str(entry["loc"][0]) if entry["loc"] else cls
    if entry["type"] == "missing":
        return (
            f'{cls} needs {name}: {cls}("NAME"), see zh_retrieval.MODELS.' if name == "model" else f"{name} is missing."
        )
    message = str(entry["msg"]).removeprefix("Value error, ").rstrip(".")
    if message.startswith(f"{name}="):
        return f"{message}."
    return f"{name}: {message}." if name in _HIDDEN else f"{name}={repr(entry['input'])[:_SHOWN]}: {message}."
