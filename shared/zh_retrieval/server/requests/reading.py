"""JSON of one field to values, and what is wrong with it in the words of whoever sent it."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from zh_retrieval.server.http.problems import RequestError

T = TypeVar("T")

MARK = rb"\ufdd0"  # a code that is no character, in place of half of one

_WORDS = {
    "int": "a number", "float": "a number", "str": "a text", "array": "a list", "object": "an object",
    "bool": "true or false", "null": "null",
}  # fmt: skip
_GOT = re.compile(r"got `(\w+)`")
_PLACE = re.compile(r"`\$([][.\w]*)`$")
# A pair of surrogates is a character; a half of one, in the group, is none.
_SURROGATES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def refused(name: str, what: str, code: str | None = None) -> RequestError:
    """Return the refusal of a field; `what` says what it is and what was expected."""
    return RequestError(400, f"{name} {what}.", code, name.partition("[")[0])


def shown(value: object) -> str:
    """Return a value as it was sent, its first characters at most; of a list or an object only that it is one."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return repr(value[:40]) + ("..." if len(value) > 40 else "")
    return (
        str(value)[:40] if isinstance(value, (int, float)) else _WORDS["array" if isinstance(value, list) else "object"]
    )


def decoded(decoder: msgspec.json.Decoder[T], name: str, raw: bytes, expected: str, *, ids: bool = False) -> T:
    """Return what a field's JSON holds.

    Args:
        decoder: Of its type; it stops at the first value that is of another.
        name: Of the field.
        raw: Its JSON.
        expected: What it holds otherwise, for the message.
        ids: Whether numbers in it are token ids, which some clients send instead of texts.

    Raises:
        RequestError: It holds something else, or no valid Unicode.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        said = str(error)
        got, place = _GOT.search(said), _PLACE.search(said)
        where = name + (place[1] if place else "")
        kind = got[1] if got else ""
        if ids and (kind == "int" or (kind == "array" and place)):
            raise _token_ids(where, name) from None
        if "missing required" in said:
            raise refused(where, f"is an object without text, expected {expected}") from None
        raise refused(where, f"is {_WORDS.get(kind, 'out of range')}, expected {expected}") from None
    except msgspec.DecodeError as error:
        raise refused(name, f"is no valid text ({str(error)[:80]}), expected UTF-8") from None


def strings(raw: bytes, most: int) -> int:
    """Return how many strings JSON holds, or some number up to `most` if there are not more."""
    return _quotes(raw) // 2 if raw.count(b'"') > 2 * most else 0


def _quotes(content: bytes) -> int:
    return content.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')


def _token_ids(where: str, name: str) -> RequestError:
    return RequestError(
        400, f"{where} is no text but token ids. They belong to another model's vocabulary and would give wrong "
        "vectors: send texts. In LangChain set check_embedding_ctx_length=False of OpenAIEmbeddings.",
        "token_ids_not_supported", name,
    )  # fmt: skip


def lone_surrogate(content: bytes | bytearray) -> tuple[str, bytes] | None:
    """Return the first escaped half of a character in JSON, and the JSON with `MARK` in its place; None without any."""
    plain = bytearray(content.replace(b"\\\\", b"__"))  # so that \\ud83d, a backslash and letters, is no escape
    first = b""
    at = plain.find(b"\\u")
    while at >= 0:
        found = _SURROGATES.match(plain, at)
        half = found[1] if found else None
        if half is not None:
            first = first or bytes(half)
            plain[at : at + len(MARK)] = MARK
        at = plain.find(b"\\u", at + (len(found[0]) if found else 2))
    return (first.decode(), bytes(plain)) if first else None


def check_unmarked(name: str, raw: bytes, half: str, *, per: int = 1) -> None:
    """Raise RequestError if a field has `MARK` in it; of a list, it names the entry, `per` strings each."""
    before, found, _ = raw.partition(MARK)
    if not found:
        return
    where = f"{name}[{_quotes(before) // 2 // per}]" if raw[:1] == b"[" and b"{" not in before else name
    raise refused(where, f"holds a lone surrogate {half}, half of a character, expected valid Unicode")
