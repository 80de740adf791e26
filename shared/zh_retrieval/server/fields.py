"""Fields of a request's JSON object, checked by hand: null is as good as absent everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.server.problems import RequestError
from zh_retrieval.validation import check_text

Body = dict[str, Any]

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


def text(body: Body, name: str) -> str:
    """Return a field that must be a text."""
    value = _needed(body, name)
    check_text(value, name)
    found: str = value
    return found


def optional_text(body: Body, name: str) -> str | None:
    """Return a text, or None."""
    return None if body.get(name) is None else text(body, name)


def texts(body: Body, name: str, *, empty: bool = False) -> list[str]:
    """Return a field that must be a list of texts.

    Raises:
        InputError: It is no list of texts; the message names the index.
        RequestError: It is missing, or the list is empty and may not be.
    """
    value = _needed(body, name)
    if not isinstance(value, list):
        raise InputError(f"{name} is {_kind(value)}, expected a list of texts.")
    if not value and not empty:
        raise RequestError(400, f"{name} is an empty list, expected at least one text.", "empty", name)
    for index, entry in enumerate(value):
        check_text(entry, f"{name}[{index}]")
    return value


def switch(body: Body, name: str, default: bool) -> bool:
    """Return a yes or no; texts such as "true", which some clients send, are understood."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    said = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if said in _TRUE:
        return True
    if isinstance(value, (str, int)) and said in _FALSE:
        return False
    raise InputError(f"{name} is {_kind(value)}, expected true or false.")


def count(body: Body, name: str) -> int | None:
    """Return a whole number of 0 or more, or None."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} is {str(value)[:40]!r}, expected a whole number of 0 or more.")
    return value


def choice(body: Body, name: str, values: Sequence[str], default: str) -> str:
    """Return one of some words."""
    value = body.get(name)
    if value is None:
        return default
    if value not in values:
        raise RequestError(
            400, f"Invalid value for '{name}' = {str(value)[:40]}. Supported values: {list(values)}.", None, name
        )
    found: str = value
    return found


def _needed(body: Body, name: str) -> Any:
    if body.get(name) is None:
        raise RequestError(400, f"{name} is missing.", "missing_field", name)
    return body[name]


def _kind(value: object) -> str:
    return type(value).__name__
