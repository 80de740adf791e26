"""The inputs of a call: as they were when it was made, each different one once, and what is cut off them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

from zh_retrieval import usage
from zh_retrieval.errors import InputError
from zh_retrieval.options import Overflow
from zh_retrieval.validation import is_list

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT", bound=Hashable)


def frozen(inputs: Any) -> Any:
    """Return what was given at the call, as a tuple, whatever becomes of the caller's list; no list as it is."""
    return tuple(inputs) if is_list(inputs) else inputs


def distinct(items: Sequence[ItemT]) -> tuple[list[ItemT], list[int]]:
    """Return the different items, and the place among them of each input.

    Equal inputs are computed once: quicker, and their results are equal to the last bit, so that ties are ties.
    """
    places: dict[ItemT, int] = {}
    found = [places.setdefault(item, len(places)) for item in items]
    return list(places), found


class Truncation:
    """Counts what a call cuts, or refuses it."""

    def __init__(self, overflow: Overflow, max_length: int, what: str, used: usage.Usage) -> None:
        self._overflow = overflow
        self._max_length = max_length
        self._what = what
        self._used = used
        self._longest = 0
        self._whole = True

    def note(self, index: int, length: int, whole: bool) -> None:
        """Record that input `index` has `length` tokens, more than `max_length`; at least so many if not `whole`.

        What is not whole counts as longer than `max_length`, whatever it was found to have.

        Raises:
            InputError: overflow is "error".
        """
        length = max(length, self._max_length + 1)
        if self._overflow == "error":
            raise InputError(
                f"{self._what}[{index}] has {'' if whole else 'at least '}{length} tokens, expected at most "
                f"{self._max_length}. Shorten it, or use overflow='truncate'."
            )
        self._used.cut += 1
        self._used.lost += length - self._max_length
        self._longest = max(self._longest, length)
        self._whole = self._whole and whole

    def report(self, count: int) -> None:
        """Log one warning if anything was cut, unless the caller counts what is cut."""
        if self._used.cut and not usage.counting():
            logger.warning(
                "%d of %d %s were cut to %d tokens (the longest has %s%d). Split them, or use overflow='error'.",
                self._used.cut, count, self._what, self._max_length, "" if self._whole else "at least ", self._longest,
            )  # fmt: skip
