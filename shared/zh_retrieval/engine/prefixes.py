"""Prefixes that sequences share, computed once: attention is causal, so their keys and values are the same in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from zh_retrieval.sequence import Tokens

_LEAST = 8  # tokens: a pass for fewer costs more than it saves
_KEPT = 8  # prefixes of instructions
_KEPT_BYTES = 64 * 2**20  # of all of them

Prefix = tuple[int, ...]


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Past = TypeVar("Past", bound=_Sized)
"""An engine's keys and values of a prefix."""


class Prefixes(Generic[Past]):
    """Which sequences of a batch share a prefix, and the keys and values of instructions that come again and again.

    Only instructions are kept from pass to pass, a few of them: never a text.

    Args:
        longest: The most tokens of a prefix.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._kept: dict[Prefix, Past] = {}  # the one that was used last is the last

    def groups(self, tokens: Sequence[Tokens]) -> list[tuple[Prefix, list[int]]]:
        """Return prefixes and the indices of the sequences that go on from each; () for those that share none."""
        groups: dict[Prefix, list[int]] = {}
        for index, item in enumerate(tokens):
            prefix = tuple(item.ids[: item.shared]) if _LEAST <= item.shared <= self._longest else ()
            groups.setdefault(prefix, []).append(index)
        alone = [
            prefix
            for prefix, indices in groups.items()
            if prefix and len(indices) == 1 and not tokens[indices[0]].instructed
        ]
        for prefix in alone:
            groups.setdefault((), []).extend(groups.pop(prefix))
        return [*groups.items()]

    def get(self, prefix: Prefix) -> Past | None:
        """Return keys and values that are kept; None if they are not."""
        found = self._kept.pop(prefix, None)
        if found is not None:
            self._kept[prefix] = found
        return found

    def keep(self, prefix: Prefix, values: Past) -> None:
        """Keep the keys and values of an instruction; what was used longest ago goes."""
        self._kept[prefix] = values
        while self._kept and (
            len(self._kept) > _KEPT or sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES
        ):
            del self._kept[next(iter(self._kept))]
