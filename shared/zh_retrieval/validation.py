"""Whether inputs are text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeVar

from zh_retrieval.errors import InputError

KindT = TypeVar("KindT")

_NOT_LISTS = (str, bytes, bytearray, memoryview, Mapping, Set, type)


class UnscorableQueryError(InputError):
    """The query has no score, whatever the document: it is empty, or leaves no room for one."""


def is_list(items: Any) -> bool:
    """Return True for what has a length and an order: a list, tuple, deque, array of one dimension, Series.

    Not for one text, nor for a mapping, set, table or iterator.
    """
    sized = hasattr(items, "__len__") and hasattr(items, "__iter__") and not isinstance(items, _NOT_LISTS)
    return sized and getattr(items, "ndim", 1) == 1


def as_tuple(items: Any, what: str, of: str) -> tuple[Any, ...]:
    """Return what a list, or anything like one (see `is_list`), holds at this moment.

    Raises:
        InputError: It is nothing of the kind.
    """
    if is_list(items):
        return tuple(items)
    hint = ""
    if isinstance(items, str):
        hint = " Wrap one text in a list."
    elif isinstance(items, Iterable) and not isinstance(items, (bytes, bytearray)):
        hint = " Make a list of it."
    raise InputError(f"{what} is {type(items).__name__}, expected a list of {of}.{hint}")


def check_texts(texts: Any, what: str = "texts") -> tuple[str, ...]:
    """Return the texts as they are at this moment: a caller may refill its list while they are computed.

    Raises:
        InputError: `texts` is nothing like a list, or an element, which the message names by its index, is not a str
            or holds a lone surrogate.
    """
    taken = as_tuple(texts, what, "str")
    for index, text in enumerate(taken):
        check_text(text, f"{what}[{index}]")
    return taken


def check_text(text: object, what: str) -> None:
    """Raise InputError unless `text` is a str of valid Unicode; `what` names it in the message."""
    if not isinstance(text, str):
        raise InputError(f"{what} is {type(text).__name__}, expected str. Remove it or convert it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds a lone surrogate {text[error.start]!r} at character {error.start}, expected valid "
            "Unicode. Decode the source with errors='replace'."
        ) from None


def check_pairs(pairs: Sequence[Any]) -> None:
    """Raise for the first pair that is not (query, document), or whose query says nothing.

    Raises:
        InputError: It is not two valid texts; the message names its index.
        UnscorableQueryError: Its query is empty, or white space alone.
    """
    for index, pair in enumerate(pairs):
        if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"pairs[{index}] is {type(pair).__name__}, expected (query, document).")
        check_text(pair[0], f"pairs[{index}] query")
        check_text(pair[1], f"pairs[{index}] document")
        if not pair[0].strip():
            raise UnscorableQueryError(f"pairs[{index}] has an empty query, which has no score. Leave the pair out.")


def check_items(items: Any, kind: type[KindT], what: str) -> tuple[KindT, ...]:
    """Return the items as they are at this moment.

    Raises:
        InputError: `items` is nothing like a list, or an element, which the message names by its index, is not of the
            kind.
    """
    taken = as_tuple(items, what, kind.__name__)
    for index, item in enumerate(taken):
        if not isinstance(item, kind):
            raise InputError(f"{what}[{index}] is {type(item).__name__}, expected {kind.__name__}.")
    return taken
