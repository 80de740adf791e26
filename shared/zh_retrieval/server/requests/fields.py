"""The kinds of fields that requests declare: how each is read from its bytes of JSON, and how OpenAPI describes it.

A field is read alone, after the whole body was only walked over: what is small is never built large, a list is counted
before its contents are built, and a value that is refused is named by its kind or by its first characters.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.requests.reading import decoded, refused, shown

_LONGEST = 1000  # bytes of JSON of a field that is no text to compute
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")

_Scalar = str | int | float | bool
_SCALAR = msgspec.json.Decoder(_Scalar)


class Kind(ABC):
    """How one field is read.

    Args:
        about: What it means, with units, for whoever sends it.
        also: Other names of it; at most one of all its names may be given.
    """

    large = False  # read after all others

    def __init__(self, about: str, *, also: tuple[str, ...] = ()) -> None:
        self.about = about
        self.also = also

    @abstractmethod
    def read(self, name: str, raw: bytes, max_texts: int) -> Any:
        """Return the value of the field `name`, at most `max_texts` of them. Raises RequestError."""

    @property
    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""


class Word(Kind):
    """A name; an empty one is as good as none."""

    def read(self, name: str, raw: bytes, max_texts: int) -> str | None:
        value = _scalar(name, raw, "a name")
        if not isinstance(value, str):
            raise refused(name, f"is {shown(value)}, expected a name")
        return value or None

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


class Choice(Kind):
    """One of some words, in upper or lower case; gives what the word stands for."""

    def __init__(self, about: str, words: Mapping[str, Any], *, also: tuple[str, ...] = ()) -> None:
        super().__init__(about, also=also)
        self._words = words

    def read(self, name: str, raw: bytes, max_texts: int) -> Any:
        value = _scalar(name, raw, f"one of: {', '.join(self._words)}")
        word = value.lower() if isinstance(value, str) else value
        if word not in self._words:
            raise RequestError(
                400, f"Invalid value for '{name}' = {shown(value)}. Supported values: {list(self._words)}.", None, name
            )
        return self._words[str(word)]

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self._words)}


class Switch(Kind):
    """Yes or no; texts such as "true", which some clients send, are understood."""

    def __init__(self, about: str, words: Mapping[str, bool] | None = None, *, also: tuple[str, ...] = ()) -> None:
        """Also understands `words`."""
        super().__init__(about, also=also)
        self._words = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False), **(words or {})}
        self._listed = ", ".join(["true", "false", *(f'"{word.upper()}"' for word in words or ())])

    def read(self, name: str, raw: bytes, max_texts: int) -> bool:
        value = _scalar(name, raw, self._listed)
        word = str(value).strip().lower()
        if isinstance(value, float) or word not in self._words:
            raise refused(name, f"is {shown(value)}, expected {self._listed}")
        return self._words[word]

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Count(Kind):
    """A whole number, also as 2.0 or "2"."""

    def __init__(self, about: str, *, least: int, also: tuple[str, ...] = ()) -> None:
        super().__init__(about, also=also)
        self._least = least

    def read(self, name: str, raw: bytes, max_texts: int) -> int:
        expected = f"a whole number of {self._least} or more"
        value = _scalar(name, raw, expected)
        try:
            number = None if isinstance(value, bool) else int(value)
        except (ValueError, OverflowError):
            number = None
        if number is None or (isinstance(value, float) and number != value) or number < self._least:
            raise refused(name, f"is {shown(value)}, expected {expected}")
        return min(number, sys.maxsize)

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self._least}


class Only(Kind):
    """A field of other servers that would change the result, where this one does one thing only: the rest is refused.

    Args:
        about: Why.
        values: What may be sent.
    """

    def __init__(self, about: str, *values: Any) -> None:
        super().__init__(about)
        self._values = values

    def read(self, name: str, raw: bytes, max_texts: int) -> Any:
        try:
            value = msgspec.json.decode(raw) if len(raw) <= _LONGEST else "..."
        except msgspec.MsgspecError:  # a number without end
            value = "..."
        value = value.lower() if isinstance(value, str) else value
        if value not in self._values:
            raise refused(name, f"is {shown(value)}, which is not supported: {self.about}. Leave it out")
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": list(self._values)}


class Ignored(Kind):
    """A field of other servers that changes no result here. It is not read."""

    def read(self, name: str, raw: bytes, max_texts: int) -> None:
        """Read nothing."""

    @property
    def schema(self) -> dict[str, Any]:
        return {"deprecated": True}


def _scalar(name: str, raw: bytes, expected: str) -> Any:
    if len(raw) > _LONGEST:
        raise refused(name, f"has {len(raw)} bytes of JSON, expected {expected}")
    return decoded(_SCALAR, name, raw, expected)
