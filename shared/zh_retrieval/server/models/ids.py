"""Which model an id means, and which side of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from zh_retrieval.base import Encoder, Reranker, SparseEncoder
from zh_retrieval.errors import InputError, UnknownModelError, WrongTaskError
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.server.models.served import SUFFIXES, ServedModel

Side = Literal["query", "document"]

_SUFFIXES: dict[str, Side] = dict(zip(SUFFIXES, ("query", "document", "document"), strict=True))
SIDES: dict[str, Side] = {
    "query": "query", "search_query": "query", "retrieval.query": "query",
    "document": "document", "passage": "document", "search_document": "document", "retrieval.passage": "document",
}  # fmt: skip
"""What vendors call the sides."""


class Models:
    """The models of a server, by id: `NAME`, `NAME-query`, `NAME-document`; aliases and hub ids mean the same."""

    def __init__(self, served: Sequence[ServedModel[Any]]) -> None:
        self.all = tuple(served)
        self._known = {name.lower(): one for one in reversed(self.all) for name in _names(one.spec)}
        self._known |= {name.lower(): one for one in self.all for name in (one.spec.name, one.name)}

    def ids(self) -> Iterator[tuple[str, ServedModel[Any]]]:
        """Yield every id that is listed, with its model."""
        for served in self.all:
            yield served.name, served
            if served.spec.task == "embedding":
                yield f"{served.name}-query", served
                yield f"{served.name}-document", served

    def encoder(self, name: str | None) -> tuple[ServedModel[Encoder], Side | None]:
        """Return an embedding model and the side that its id says; None for `name` is the only one there is.

        Raises:
            UnknownModelError: It is not served, or None and there are several; the message lists them.
            WrongTaskError: It does something else.
        """
        return self._find(name, "embedding")

    def reranker(self, name: str | None) -> ServedModel[Reranker]:
        """Return a reranker. As `encoder`."""
        found: ServedModel[Reranker] = self._find(name, "reranking")[0]
        return found

    def sparse(self, name: str | None) -> tuple[ServedModel[Encoder] | ServedModel[SparseEncoder], Side | None]:
        """Return a model that gives sparse vectors, and the side that its id says. As `encoder`."""
        return self._find(name, "sparse")

    def _find(self, name: str | None, task: str) -> tuple[Any, Side | None]:
        able = [served for served in self.all if served.spec.task == task or (task == "sparse" and served.sparse)]
        listed = ", ".join(served.name for served in able) or "none"
        what = {"embedding": "embedding model", "reranking": "reranker"}.get(task, "model of sparse vectors")
        if name is None:
            if len(able) == 1:
                return able[0], None
            raise UnknownModelError(f"model is missing, and this server has no single {what}. It serves: {listed}.")
        found, side = self._named(name)
        if found is None:
            raise UnknownModelError(f"The model {name[:100]!r} is not served here as {what}. It serves: {listed}.")
        if found not in able:
            does = "gives no sparse vectors" if task == "sparse" else f"does {found.spec.task}, not {task}"
            raise WrongTaskError(f"{found.name} {does}. Use one of: {listed}.")
        return found, side

    def _named(self, name: str) -> tuple[ServedModel[Any] | None, Side | None]:
        found = self._known.get(name.lower())
        if found is not None:
            return found, None
        for suffix, side in _SUFFIXES.items():
            if name.lower().endswith(suffix):
                return self._known.get(name.lower()[: -len(suffix)]), side
        return None, None


def _names(spec: ModelSpec) -> Iterator[str]:
    """Yield aliases and hub ids that mean this recipe and no other of the same weights."""
    for name in (*spec.aliases, *(source.id for source in spec.sources)):
        with contextlib.suppress(UnknownModelError):
            if get_spec(name) == spec:
                yield name


def agreed_side(sides: Mapping[str, Side | None]) -> Side | None:
    """Return the side that a request asks for, by its model's suffix or its fields; None if nothing says it.

    Raises:
        InputError: Two contradict each other.
    """
    found: dict[str, Side] = {name: side for name, side in sides.items() if side is not None}
    if len(set(found.values())) > 1:
        says = ", ".join(f"{name} says {side}" for name, side in found.items())
        raise InputError(f"The request contradicts itself: {says}. Leave one out.")
    return next(iter(found.values()), None)
