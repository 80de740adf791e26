"""Which model an id means, and which side of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.errors import InputError, UnknownModelError, WrongTaskError
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.server.served import Served

Side = Literal["query", "document"]

_SUFFIXES: dict[str, Side] = {"-query": "query", "-document": "document", "-passage": "document"}
_SIDES: dict[str, Side] = {
    "query": "query", "search_query": "query", "retrieval.query": "query",
    "document": "document", "passage": "document", "search_document": "document", "retrieval.passage": "document",
}  # fmt: skip


class Models:
    """The models of a server, by id: `NAME`, `NAME-query`, `NAME-document`; aliases and hub ids mean the same."""

    def __init__(self, served: Sequence[Served[Any]]) -> None:
        self.all = tuple(served)

    def ids(self) -> Iterator[tuple[str, Served[Any]]]:
        """Yield every id that is listed, with its model."""
        for served in self.all:
            yield served.name, served
            if served.spec.task == "embedding":
                yield f"{served.name}-query", served
                yield f"{served.name}-document", served

    def encoder(self, name: object) -> tuple[Served[Encoder], Side | None]:
        """Return an embedding model and the side that its id says; None for `name` is the only one there is.

        Raises:
            UnknownModelError: It is not served, or None and there are several; the message lists them.
            WrongTaskError: It is a reranker.
        """
        return self._find(name, "embedding")

    def reranker(self, name: object) -> Served[Reranker]:
        """Return a reranker. As `encoder`."""
        found: Served[Reranker] = self._find(name, "reranking")[0]
        return found

    def _find(self, name: object, task: str) -> tuple[Any, Side | None]:
        able = [served for served in self.all if served.spec.task == task]
        listed = ", ".join(served.name for served in able) or "none"
        what = "embedding model" if task == "embedding" else "reranker"
        if name is None:
            if len(able) == 1:
                return able[0], None
            raise UnknownModelError(f"model is missing, and this server has no single {what}. It serves: {listed}.")
        if not isinstance(name, str):
            raise InputError(f"model is {type(name).__name__}, expected str. This server serves: {listed}.")
        found, side = self._named(name)
        if found is None:
            raise UnknownModelError(f"The model {name[:100]!r} is not served here as {what}. It serves: {listed}.")
        if found not in able:
            raise WrongTaskError(f"{found.name} does {found.spec.task}, not {task}. Use one of: {listed}.")
        return found, side

    def _named(self, name: str) -> tuple[Served[Any] | None, Side | None]:
        found = self._exact(name)
        if found is not None:
            return found, None
        for suffix, side in _SUFFIXES.items():
            if name.lower().endswith(suffix):
                return self._exact(name[: -len(suffix)]), side
        return None, None

    def _exact(self, name: str) -> Served[Any] | None:
        for served in self.all:
            if name.lower() in (served.name.lower(), served.spec.name.lower()):
                return served
        try:
            spec = get_spec(name)
        except UnknownModelError:
            return None
        return next((served for served in self.all if served.spec == spec), None)


def chosen_side(of_id: Side | None, said: dict[str, object]) -> Side:
    """Return the side that a request asks for: by its model's id or a field; "document" if nothing says it.

    Args:
        of_id: What the id says.
        said: Field -> its value, in whichever vendor's spelling; None says nothing.

    Raises:
        InputError: A value is unknown, or two contradict each other.
    """
    found: dict[str, Side] = {}
    if of_id is not None:
        found["the model's suffix"] = of_id
    for field, value in said.items():
        if value is None:
            continue
        if not isinstance(value, str) or value not in _SIDES:
            raise InputError(f"{field} is {str(value)[:60]!r}, expected one of: {', '.join(_SIDES)}.")
        found[field] = _SIDES[value]
    if len(set(found.values())) > 1:
        says = ", ".join(f"{field} says {side}" for field, side in found.items())
        raise InputError(f"The request contradicts itself: {says}. Leave one out.")
    for side in found.values():
        return side
    return "document"
