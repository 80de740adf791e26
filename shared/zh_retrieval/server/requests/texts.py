"""The kinds of fields that hold what is computed: texts, documents, pairs, spans; read after all others."""

from __future__ import annotations

from typing import Any

import msgspec

from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.requests.fields import Kind
from zh_retrieval.server.requests.reading import decoded, refused, strings

_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_PAIRS: msgspec.json.Decoder[list[tuple[str, str]]] = msgspec.json.Decoder(list[tuple[str, str]])
_SPANS: msgspec.json.Decoder[list[tuple[int, int]]] = msgspec.json.Decoder(list[tuple[int, int]])


class _Document(msgspec.Struct):
    text: str


_TEXTS: msgspec.json.Decoder[str | list[str]] = msgspec.json.Decoder(str | list[str])
_TEXTS_OR_OBJECTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str | list[str | _Document])
_DOCUMENTS: msgspec.json.Decoder[list[str | _Document]] = msgspec.json.Decoder(list[str | _Document])
_TEXT_OR_OBJECT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}


class Text(Kind):
    """One text; a blank one may be refused."""

    large = True

    def __init__(self, about: str, *, blank: bool = True) -> None:
        super().__init__(about)
        self._blank = blank

    def read(self, name: str, raw: bytes, max_texts: int) -> str:
        text = decoded(_TEXT, name, raw, "a text")
        if not self._blank and not text.strip():
            raise RequestError(400, f"{name} is an empty text, expected words.", "empty", name)
        return text

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


class Texts(Kind):
    """A list of texts, or one text, which becomes a list.

    Args:
        about: As for all.
        one: Whether one text may come without a list.
        least: Texts that must be there.
        empty: Whether a text may be empty.
        objects: Whether a list may hold objects with a `text`, as Jina's does.
        also: As for all.
    """

    large = True

    def __init__(
        self, about: str, *, one: bool = False, least: int = 1, empty: bool = False, objects: bool = False,
        also: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(about, also=also)
        self._one, self._least, self._empty = one, least, empty
        self._decoder = _TEXTS_OR_OBJECTS if objects else _TEXTS
        self._objects = objects

    def read(self, name: str, raw: bytes, max_texts: int) -> list[str]:
        per = 2 if self._objects and b"{" in raw else 1  # strings of JSON that one text may have
        _check_count(name, strings(raw, per * max_texts) // per, max_texts, "texts")
        found = decoded(self._decoder, name, raw, "a text" if self._one else "a list of texts", ids=self._one)
        if isinstance(found, str) and not self._one:
            raise refused(name, "is a text, expected a list of texts")
        texts = [found] if isinstance(found, str) else [_text(entry) for entry in found]
        _check_count(name, len(texts), max_texts, "texts")
        if len(texts) < self._least:
            raise _empty_list(name)
        if not self._empty:
            _check_filled(name, texts, one=isinstance(found, str))
        return texts

    @property
    def schema(self) -> dict[str, Any]:
        several: dict[str, Any] = {"type": "array", "items": _TEXT_OR_OBJECT if self._objects else {"type": "string"}}
        return {"anyOf": [{"type": "string"}, several]} if self._one else several


class Documents(Kind):
    """A list of texts or of objects with a `text`; documents may be empty."""

    large = True

    def read(self, name: str, raw: bytes, max_texts: int) -> list[str]:
        found = decoded(_DOCUMENTS, name, raw, "a text or an object with a text")
        _check_count(name, len(found), max_texts, "texts")
        if not found:
            raise _empty_list(name)
        return [_text(entry) for entry in found]

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": _TEXT_OR_OBJECT}


class Pairs(Kind):
    """A list of [query, document]."""

    large = True

    def read(self, name: str, raw: bytes, max_texts: int) -> list[tuple[str, str]]:
        _check_count(name, strings(raw, 2 * max_texts) // 2, max_texts, "pairs")
        return decoded(_PAIRS, name, raw, "[query, document]")

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}}


class Spans(Kind):
    """A list of [first character, end]."""

    large = True

    def read(self, name: str, raw: bytes, max_texts: int) -> list[tuple[int, int]]:
        _check_count(name, raw.count(b"[") - 1, max_texts, "spans")
        return decoded(_SPANS, name, raw, "[first character, end]")

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}}


def _check_count(name: str, count: int, max_texts: int, what: str) -> None:
    if count > max_texts:
        raise RequestError(
            400, f"{name} has {count} {what}, more than max_texts={max_texts} of this server. Split the request, or "
            "start the server with a higher --max-texts.", "too_many_inputs", name,
        )  # fmt: skip


def _text(entry: str | _Document) -> str:
    return entry if isinstance(entry, str) else entry.text


def _check_filled(name: str, texts: list[str], *, one: bool) -> None:
    empty = [index for index, text in enumerate(texts) if not text]
    if empty:
        listed = name if one else ", ".join(f"{name}[{index}]" for index in empty[:10])
        raise RequestError(400, f"{listed} is an empty text. Leave empty texts out.", "empty", name)


def _empty_list(name: str) -> RequestError:
    return RequestError(400, f"{name} is an empty list, expected at least one text.", "empty", name)
