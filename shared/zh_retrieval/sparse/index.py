"""BM25 over texts that come and go: no model, no server, milliseconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zh_retrieval.checks import whole_number
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.sparse.index_file import Id, Stored, read, write
from zh_retrieval.sparse.search import State
from zh_retrieval.sparse.segment import Segment, key, made, tidied
from zh_retrieval.sparse.settings import check_weights
from zh_retrieval.sparse.terms import terms
from zh_retrieval.validation import check_text

SelfT = TypeVar("SelfT", bound="BM25Index")


class BM25Index:
    """Finds texts by the terms that they share with a query (`terms`), by BM25 as Lucene computes it.

    score = sum over the query's terms, each as often as it is there, of IDF * f / (f + k1 * (1 - b + b * length /
    average)), with IDF = ln(1 + (N - n + 0.5) / (n + 0.5)); f is how often the text has the term, n how many of N texts
    have it. IDF and average are those of the texts that are there now. float64.

    A text is known by its id: one that is given, or else its number, counted from 0 over all that were ever added. Any
    thread may search, also while another adds and deletes: a search sees the index before or after a change.
    """

    def __init__(
        self, texts: Iterable[str] = (), *, ids: Iterable[Id] | None = None, k1: float = 1.2, b: float = 0.75
    ) -> None:
        """Make an index of texts, which may be more than memory holds: they are read one by one.

        Args:
            texts: What is searched.
            ids: One for each text, int or str; None: texts are known by their numbers.
            k1: How much a term counts that is in a text more than once; at least 0.
            b: How much the length of a text counts against it, 0 to 1.

        Raises:
            ConfigError: `k1` or `b` is out of its range.
            InputError: A text is not valid text, or ids are not one for each text.
        """
        self.k1, self.b = check_weights(k1, b)
        self._changing = threading.Lock()
        self._serials: dict[Id, int] | None = None if ids is None else {}  # of the texts that are there
        self._names: dict[int, Id] = {}  # the other way round, and of some that were deleted
        self._put((), 0)
        self.add(texts, ids)

    def __len__(self) -> int:
        return self._state.count

    @property
    def nbytes(self) -> int:
        """Return the bytes of the index, without ids that were given."""
        state = self._state
        return sum(part.nbytes for part in state.segments) + sum(norm.nbytes for norm in state.norms)

    def add(self, texts: Iterable[str], ids: Iterable[Id] | None = None) -> None:
        """Add texts; one whose id is there takes the place of the earlier text, and is the last in order then.

        Many at a time are quicker than one by one: each call counts the average length of all anew.

        Raises:
            InputError: A text is not valid text (the message names its place), or ids are not one for each text, twice
                the same, or neither int nor str. Nothing is added.
            ConfigError: Ids are given to an index that counts its texts, or the other way round.
        """
        given = None if ids is None else check_ids(ids)
        with self._changing:
            if (given is None) != (self._serials is None):
                known, do = ("numbers", "leave ids out") if self._serials is None else ("ids", "give one for each text")
                raise ConfigError(f"The index knows its texts by their {known}: {do}.")
            first, state = self._next, self._state
            added = list(made(_terms_of(texts, given), first))
            following = first + sum(len(part.serials) for part in added)
            if given is None or self._serials is None:
                self._put([*state.segments, *added], following)
                return
            if following - first != len(given):
                raise InputError(f"{len(given)} ids for {following - first} texts, expected one for each.")
            replaced = [self._serials[id] for id in given if id in self._serials]
            numbered = dict(zip(given, range(first, following), strict=True))
            self._names.update((serial, id) for id, serial in numbered.items())
            self._serials |= numbered
            self._put([*_without(state.segments, replaced), *added], following)

    def delete(self, ids: Iterable[Id]) -> int:
        """Delete texts and return how many were there; an id that is not there is no error.

        Raises:
            InputError: Ids are twice the same, or neither int nor str.
        """
        wanted = check_ids(ids)
        with self._changing:
            if self._serials is None:
                gone = [id for id in wanted if isinstance(id, int) and self._state.holds(id)]
            else:
                gone = [self._serials.pop(id) for id in wanted if id in self._serials]
            if gone:
                self._put(_without(self._state.segments, gone), self._next)
            return len(gone)

    def search(self, query: str, k: int = 10) -> list[tuple[Any, float]]:
        """Return (id, score) of the best k texts that share a term with the query, best first; fewer if fewer do.

        Of equal scores the text that was added earlier is first, also at the end of the list.

        Raises:
            InputError: The query is not valid text.
            ConfigError: `k` is no positive whole number.
        """
        check_text(query, "query")
        k = whole_number("k", k, "a positive whole number")
        state = self._state
        serials, scores = state.search(Counter(map(key, terms(query))), k)
        found = serials.tolist()
        ids = found if state.names is None else [state.names[serial] for serial in found]
        return list(zip(ids, scores.tolist(), strict=True))

    def _put(self, segments: Sequence[Segment], following: int) -> None:
        """Let searches see these segments, and the next text have this number."""
        if self._serials is not None and len(self._names) > 2 * len(self._serials) + 1000:
            self._names = {serial: id for id, serial in self._serials.items()}  # a search keeps the one it began with
        names = None if self._serials is None else self._names
        self._state = State.of(tidied(segments), names, self.k1, self.b)
        self._next = following

    def save(self, file: str | PathLike[str]) -> None:
        """Write the index into one file, whole or not at all; it holds no text.

        Raises:
            OSError: It cannot be written; what was there is there.
        """
        with self._changing:
            state, following = self._state, self._next
        names = state.names
        ids = None if names is None else [names[serial] for serial in state.serials()]
        write(Path(file), Stored(state.segments, ids, self.k1, self.b, following))

    @classmethod
    def load(cls: type[SelfT], file: str | PathLike[str]) -> SelfT:
        """Return the index of a file that `save` wrote, mapped: what no search needs is not read.

        Raises:
            CheckpointError: The file is no such index, or is damaged.
            OSError: It cannot be read.
        """
        stored = read(Path(file))
        index = cls(ids=None if stored.ids is None else (), k1=stored.k1, b=stored.b)
        index._put(stored.segments, stored.following)
        if stored.ids is not None:
            index._serials = dict(zip(stored.ids, index._state.serials(), strict=True))
            index._names.update((serial, id) for id, serial in index._serials.items())
        return index

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_changing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what another process had."""
        vars(self).update(state, _changing=threading.Lock())


def check_ids(ids: Iterable[Id]) -> list[Id]:
    """Return ids as a list.

    Raises:
        InputError: One is neither int nor str, or is there twice; or `ids` is one id.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise InputError(f"ids is {type(ids).__name__}, expected a list of ids. Wrap one id in a list.")
    taken = list(ids)
    for place, id in enumerate(taken):
        if not isinstance(id, (str, int)) or isinstance(id, bool):
            raise InputError(f"ids[{place}] is {type(id).__name__}, expected int or str.")
    if len(set(taken)) < len(taken):
        twice = Counter(taken).most_common(1)[0]
        raise InputError(f"ids has {str(twice[0])[:80]!r} {twice[1]} times, expected each once.")
    return taken


def _terms_of(texts: Iterable[str], ids: Sequence[Id] | None) -> Iterator[list[str]]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise InputError(f"texts is {type(texts).__name__}, expected texts in any number. Wrap one text in a list.")
    for place, text in enumerate(texts):
        if ids is not None and place == len(ids):
            raise InputError(f"{len(ids)} ids for more texts, expected one for each.")
        check_text(text, f"texts[{place}]")
        yield terms(text)


def _without(segments: Sequence[Segment], serials: Sequence[int]) -> list[Segment]:
    """Return the segments with these texts deleted; all of them are there."""
    gone = np.sort(np.array(serials, dtype=np.int64))
    kept = []
    for part in segments:
        low, high = np.searchsorted(gone, [part.serials[0], part.serials[-1] + 1])
        kept.append(part.without(gone[low:high]) if low < high else part)
    return kept
