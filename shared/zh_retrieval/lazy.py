"""Weights that load on first use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from zh_retrieval.base import Model

ModelT = TypeVar("ModelT", bound=Model)


class Lazy(Generic[ModelT]):
    """A model that is loaded on first use; copies and pickles start empty, so weights never travel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: ModelT | None = None

    def get(self, load: Callable[[], ModelT]) -> ModelT:
        """Return the model; the first caller loads it, others wait. One that `close_all` closed is loaded again."""
        with self._lock:
            if self._model is None or self._model.closed:
                self._model = load()
            return self._model

    async def aget(self, load: Callable[[], ModelT]) -> ModelT:
        """Return the model; loading happens in a thread, so that the event loop goes on."""
        model = self._model
        return model if model is not None and not model.closed else await asyncio.to_thread(self.get, load)

    def drop(self) -> None:
        """Forget the model; the last running call frees it, and the next `get` loads again."""
        with self._lock:
            self._model = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy)

    def __hash__(self) -> int:
        return hash(Lazy)

    def __reduce__(self) -> tuple[type[Lazy[ModelT]], tuple[()]]:
        return type(self), ()
