"""What a dialect's requests may hold: a class of fields for each, and how a body becomes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from zh_retrieval.server.http.problems import ErrorFormat, RequestError
from zh_retrieval.server.requests.fields import Ignored, Kind
from zh_retrieval.server.requests.reading import check_unmarked, lone_surrogate

RequestT = TypeVar("RequestT", bound="Request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Base of every request: attributes annotated with their `Kind`, which are read, described and documented by it.

    Attributes:
        others: Fields that have no attribute, by name: they may hold one value only, or are ignored.
        error_format: How errors are said to whoever sends it; None: as the route says them.
    """

    others: ClassVar[Mapping[str, Kind]] = {}
    error_format: ClassVar[ErrorFormat | None] = None


Requests = type[Request] | Mapping[str, type[Request]]
"""What a route takes: one request, or one for each of some fields, exactly one of which a body must have."""


def read(requests: Requests, content: bytes | bytearray, max_texts: int) -> Request:
    """Return the request that a body holds, all of it checked; fields that are not declared are passed over.

    Args:
        requests: What is expected.
        content: JSON.
        max_texts: Most texts or pairs.

    Raises:
        RequestError: 400, it is no JSON object or a field does not fit; `dialect` is that of the request.
    """
    given = _heads(requests, content)
    request = _chosen(requests, given)
    try:
        return request(**_values(request, given, max_texts))
    except RequestError as error:
        error.error_format = request.error_format
        raise


def kinds(request: Any) -> Mapping[str, tuple[Kind, Any]]:
    """Return the kind of each attribute of a request's class, and its default; `MISSING` if it must be given."""
    return _kinds(request)


@cache
def _kinds(request: Any) -> Mapping[str, tuple[Kind, Any]]:
    hints = get_type_hints(request, include_extras=True)
    found = [
        (field.name, (next(kind for kind in hints[field.name].__metadata__ if isinstance(kind, Kind)), field.default))
        for field in dataclasses.fields(request)
    ]
    return dict(sorted(found, key=lambda entry: entry[1][0].large))


def _values(request: type[Request], given: Mapping[str, bytes], max_texts: int) -> dict[str, Any]:
    for name, kind in request.others.items():
        if name in given:
            kind.read(name, given[name], max_texts)
    values: dict[str, Any] = {}
    missing = [
        name
        for name, (kind, default) in kinds(request).items()
        if default is dataclasses.MISSING and not {name, *kind.also} & given.keys()
    ]
    if missing:
        raise RequestError(400, f"{missing[0]} is missing.", "missing_field", missing[0])
    for attribute, (kind, _) in kinds(request).items():
        names = [name for name in (attribute, *kind.also) if name in given]
        if len(names) > 1:
            raise RequestError(400, f"{' and '.join(names)} mean the same. Leave one out.", None, names[1])
        for name in names:
            values[attribute] = kind.read(name, given[name], max_texts)
    return values


def _chosen(requests: Requests, given: Mapping[str, bytes]) -> type[Request]:
    if isinstance(requests, type):
        return requests
    found = [name for name in requests if name in given]
    if len(found) == 1:
        return requests[found[0]]
    listed = " or ".join(f"'{name}'" for name in requests)
    raise RequestError(400, f"Expected {listed}, got {'both of them' if found else 'neither'}.", "missing_field")


def _heads(requests: Requests, content: bytes | bytearray) -> dict[str, bytes]:
    """Return the JSON of each declared field that is there and not null, without having built anything of the body."""
    try:
        heads = _decoder(_all(requests)).decode(content)
    except msgspec.ValidationError:
        raise RequestError(400, "The body is JSON, but no object. Send {...}.", "invalid_json") from None
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse_surrogate(requests, content)
        raise RequestError(400, f"The body is no JSON: {str(error)[:200]}.", "invalid_json") from None
    found = ((name, bytes(getattr(heads, name))) for name in heads.__struct_fields__)
    return {name: raw for name, raw in found if raw not in (b"", b"null")}


def _refuse_surrogate(requests: Requests, content: bytes | bytearray) -> None:
    """Name the field and the entry that hold half of a character, if that is what is wrong with the JSON."""
    found = lone_surrogate(content)
    if found is None:
        return
    half, marked = found
    for name, raw in _heads(requests, marked).items():
        check_unmarked(name, raw, half, per=2 if name == "pairs" else 1)
    raise RequestError(400, f"The body holds a lone surrogate {half}, half of a character.", "invalid_json")


def _all(requests: Requests) -> tuple[type[Request], ...]:
    return (requests,) if isinstance(requests, type) else tuple(requests.values())


@cache
def _decoder(requests: tuple[type[Request], ...]) -> msgspec.json.Decoder[Any]:
    names = {
        name: None
        for request in requests
        for attribute, kind in (*((name, kind) for name, (kind, _) in kinds(request).items()), *request.others.items())
        if not isinstance(kind, Ignored)
        for name in (attribute, *kind.also)
    }
    heads = msgspec.defstruct("Heads", [(name, msgspec.Raw, msgspec.Raw()) for name in names])
    return msgspec.json.Decoder(heads)
