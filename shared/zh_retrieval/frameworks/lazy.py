"""Weights that load on first use: one load however many wait for it, in threads or in event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from zh_retrieval import process
from zh_retrieval.base import Model

ModelT = TypeVar("ModelT", bound=Model)

_LOCK = process.held_over_fork(threading.RLock())  # an object may be collected, and do anything, while it is held


class _Load(Generic[ModelT]):
    """A load under way in a thread of its own, known to the process that began it."""

    def __init__(self) -> None:
        self.future: Future[ModelT] = Future()
        self.future.set_running_or_notify_cancel()  # from now on nobody who waits can cancel it for the others
        self.process = os.getpid()


class Lazy(Generic[ModelT]):
    """A model that is loaded on first use; copies and pickles start empty, so weights never travel."""

    def __init__(self) -> None:
        self._held: ModelT | _Load[ModelT] | None = None

    def get(self, load: Callable[[], ModelT]) -> ModelT:
        """Return the model, `load()` if there is none yet; whoever asks meanwhile waits for the same load.

        A model that was closed, by `close_all` or by a fault, is loaded again, and so is one whose loading failed: the
        error goes to all who waited for it. In a forked child, a load that the parent had begun starts anew.
        """
        held = self._obtain(load)
        return held.future.result() if isinstance(held, _Load) else held

    async def aget(self, load: Callable[[], ModelT]) -> ModelT:
        """Return what `get` returns; waiting takes no thread, and being cancelled stops the load for nobody."""
        held = self._obtain(load)
        return await asyncio.wrap_future(held.future) if isinstance(held, _Load) else held

    def loaded(self) -> ModelT | None:
        """Return the model if it is there; loads nothing and waits for nothing."""
        held = self._held
        return None if held is None or isinstance(held, _Load) or held.closed else held

    def drop(self) -> None:
        """Forget the model, or the load under way: the calls that have it free it, and the next `get` loads anew."""
        with _LOCK:
            held, self._held = self._held, None
        del held  # not while the lock is held: what is freed here may do anything

    async def adrop(self) -> None:
        """Do what `drop` does; memory is given back in a thread of its own, which takes a while for gigabytes."""
        with _LOCK:
            held, self._held = [self._held], None
        freed: Future[None] = Future()

        def free() -> None:
            held.clear()
            freed.set_result(None)

        threading.Thread(target=free, name="zh-retrieval-free").start()
        await asyncio.wrap_future(freed)

    def _obtain(self, load: Callable[[], ModelT]) -> ModelT | _Load[ModelT]:
        while True:
            held = self._held
            if isinstance(held, _Load):
                if held.process == os.getpid():
                    return held
            elif held is not None and not held.closed:
                return held
            with _LOCK:
                if self._held is held:  # nobody was quicker
                    begun: _Load[ModelT] = _Load()
                    self._held = begun
                    break
        return self._begin(begun, load)

    def _begin(self, begun: _Load[ModelT], load: Callable[[], ModelT]) -> _Load[ModelT]:
        thread = threading.Thread(target=self._run, args=(begun, load), name="zh-retrieval-first-use", daemon=True)
        process.stopped_at_exit(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: nobody must wait for a load that does not run
            self._settle(begun, None)
            begun.future.set_exception(error)
        return begun

    def _run(self, begun: _Load[ModelT], load: Callable[[], ModelT]) -> None:
        try:
            model = load()
        except BaseException as error:
            self._settle(begun, None)
            begun.future.set_exception(error)
            del begun  # the error knows this frame: what it holds would live until a garbage collection
        else:
            self._settle(begun, model)
            begun.future.set_result(model)

    def _settle(self, begun: _Load[ModelT], model: ModelT | None) -> None:
        with _LOCK:
            if self._held is begun:  # else it was dropped: those who wait have it, and nobody after them
                self._held = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy)

    def __hash__(self) -> int:
        return hash(Lazy)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
