"""Whether inputs are text."""

from __future__ import annotations

from collections.abc import Sequence

from zh_retrieval.errors import InputError


def check_texts(texts: Sequence[str], what: str = "texts") -> None:
    """Raise InputError, naming the index, unless every text is a str of valid Unicode.

    Raises:
        InputError: `texts` is not a sequence, or an element is not a str or holds a lone surrogate.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InputError(f"{what} is {type(texts).__name__}, expected a list of str. Wrap one text in a list.")
    for index, text in enumerate(texts):
        check_text(text, f"{what}[{index}]")


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


def check_items(items: object, kind: type, what: str) -> None:
    """Raise InputError, naming the index, unless `items` is a list (or another sequence) of `kind`."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Sequence):
        raise InputError(f"{what} is {type(items).__name__}, expected a list of {kind.__name__}.")
    for index, item in enumerate(items):
        if not isinstance(item, kind):
            raise InputError(f"{what}[{index}] is {type(item).__name__}, expected {kind.__name__}.")
