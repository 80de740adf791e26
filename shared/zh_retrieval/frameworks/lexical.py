"""BM25 over the documents or nodes of a framework, which come and go by id."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from zh_retrieval.errors import InputError
from zh_retrieval.sparse.index import BM25Index
from zh_retrieval.validation import check_text

ItemT = TypeVar("ItemT")


class Shelf(Generic[ItemT]):
    """Items by id, in order, and the BM25 index of their texts; never changed, so that copies may share it."""

    def __init__(self, *, k1: float, b: float) -> None:
        """Make one of no items.

        Raises:
            ConfigError: `k1` is below 0, or `b` not in [0, 1].
        """
        self._items: dict[str, ItemT] = {}
        self._index = BM25Index(ids=(), k1=k1, b=b)

    @property
    def items(self) -> list[ItemT]:
        """Return the items in their order."""
        return list(self._items.values())

    def with_items(self, items: Iterable[tuple[str, ItemT, str]]) -> Shelf[ItemT]:
        """Return a shelf with these, each (id, item, text), too, the last in order; one whose id is there goes.

        Raises:
            InputError: A text is not valid text; the message names its place in what was given.
        """
        added: dict[str, tuple[ItemT, str]] = {}
        for place, (name, item, text) in enumerate(items):
            check_text(text, f"documents[{place}]")
            added.pop(name, None)  # of one id twice the later counts, at its place
            added[name] = (item, text)
        made = self._without(added)
        made._items |= {name: item for name, (item, _) in added.items()}
        made._index.add((text for _, text in added.values()), added)
        return made

    def without(self, ids: Iterable[str]) -> Shelf[ItemT]:
        """Return a shelf without these; ids that are not there are no error.

        Raises:
            InputError: `ids` is one text, not a list.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids[:60]!r}, expected a list of ids. Wrap one id in a list.")
        gone = set(ids)
        made = self._without(gone)
        made._index.delete(gone)
        return made

    def search(self, query: str, k: int, keep: Callable[[ItemT], bool] | None = None) -> list[tuple[ItemT, float]]:
        """Return the k best items that share a term with the query, with their scores, best first, ties in their order.

        With `keep`, the k best of those for which it is true.

        Raises:
            InputError: The query is not valid text.
        """
        found = self._index.search(query, k if keep is None else max(1, len(self._items)))
        pairs = [(self._items[name], score) for name, score in found]
        return pairs if keep is None else [pair for pair in pairs if keep(pair[0])][:k]

    def _without(self, gone: Iterable[str]) -> Shelf[ItemT]:
        """Return a copy whose items lack these; its index is one of its own that still has them."""
        made = copy.copy(self)
        names = set(gone)
        made._items = {name: item for name, item in self._items.items() if name not in names}
        made._index = copy.copy(self._index)
        return made


def check_count(given: Sequence[object], count: int, what: str) -> None:
    """Raise InputError unless there is one for each document."""
    if len(given) != count:
        raise InputError(f"{len(given)} {what} for {count} texts, expected one for each.")
