"""What values of options are right, and the form in which they are kept.

A check takes what to call the option in a message, and a value; it returns the value as it is kept.
"""

from __future__ import annotations

import operator
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from numbers import Real
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from zh_retrieval.errors import ConfigError

Check = Callable[[str, Any], Any]

_ENDPOINT = re.compile(r"(/v[12])?(/(embeddings|embed|rerank|score|models))?/?$")
_DEVICE = re.compile(r"auto|cuda(:[0-9]+)?|(cpu|mps)(:0)?")


def is_installed(package: str) -> bool:
    """Return True if a package could be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None  # None: somebody forbids it
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def one_of(*choices: str) -> Check:
    """Return the check of an option whose values can be listed."""

    def check(what: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"{what}={value!r} is unknown. Use one of {', '.join(map(repr, choices))}.")
        return value

    return check


def whole_number(what: str, value: Any, meaning: str = "a positive whole number, or None") -> int:
    """Return a positive whole number of any integer type as int.

    Raises:
        ConfigError: It is no integer, a bool, or below 1; the message says `meaning`.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{what}={value!r} must be {meaning}.")
    return number


def tokens(what: str, value: Any) -> int:
    """Return a number of tokens, at least 1."""
    return whole_number(what, value, "a positive whole number of tokens, or None")


NUMBERS: tuple[Check, ...] = (tokens, whole_number)
"""The checks of options that are whole numbers."""


def device(what: str, value: Any) -> str:
    """Return a device name; whether it is present shows when a model is loaded."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ConfigError(f"{what}={value!r} is unknown. Use 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.")
    return value


def folder(what: str, value: Any) -> str:
    """Return a path as str, so that a str and a `Path` of one folder are one option."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path:
        raise ConfigError(f"{what}={value!r} must be a folder as str or pathlib.Path, or None.")
    return path


def text(what: str, value: Any) -> str:
    """Return a str that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what}={value!r} must be a str that is not empty, or None.")
    return value


def seconds(what: str, value: Any) -> float:
    """Return a time in seconds, above 0."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ConfigError(f"{what}={value!r} must be a positive number of seconds.")
    return number


def share(what: str, value: Any) -> float:
    """Return a number from 0 to 1."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")
    if not 0 <= number <= 1:
        raise ConfigError(f"{what}={repr(value)[:60]} must be a number from 0 to 1.")
    return number


def address(what: str, value: Any) -> str:
    """Return a server's address in its one form: `/v1`, `/embeddings` and slashes at the end belong to no server."""
    text = value.strip() if isinstance(value, str) else ""
    shown = repr(_without_secrets(text)[:200]) if text else repr(value)[:80]
    try:
        parts = urlsplit(text)
        host = parts.hostname and parts.port != 0
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{what}={shown} is no address of a server. Write one such as 'http://127.0.0.1:8080'.")
    if "@" in parts.netloc:
        raise ConfigError(f"{what}={shown} holds a password. Give a key as api_key=, or in ZH_RETRIEVAL_API_KEY.")
    return urlunsplit((parts.scheme, parts.netloc, _ENDPOINT.sub("", parts.path).rstrip("/"), "", ""))


def _without_secrets(address: str) -> str:
    """Return an address without what may be a password or a key: what is before the last @, and after the first ?."""
    before, mark, _ = re.sub(r"^(https?://)?.*@", r"\1***@", address, flags=re.DOTALL).partition("?")
    return before + (mark and "?***")


def secret(what: str, value: Any) -> str:
    """Return a key as str; pydantic's SecretStr is one, too. No message holds it."""
    value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    if not isinstance(value, str) or not value.strip() or not value.isascii() or not value.isprintable():
        raise ConfigError(f"{what} must be a str of printable ASCII characters, or None.")
    return value.strip()


def keys(what: str, value: str) -> tuple[str, ...]:
    """Return the keys of a list that commas part, at least one. No message holds them."""
    found = tuple(secret(what, key) for key in value.split(",") if key.strip())
    if not found:
        raise ConfigError(f"{what} is set and holds no key. Write a key, or several with commas between, or unset it.")
    return found


def switch(what: str, value: Any) -> bool:
    """Return True or False, given as such."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what}={value!r} must be True or False.")
    return value


def anything(what: str, value: Any) -> Any:
    """Return the value: whoever it is passed to judges it."""
    return value
