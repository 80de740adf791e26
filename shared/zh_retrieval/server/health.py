"""Whether the server may be asked: loading, proving right answers, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from zh_retrieval.errors import ClosedError
from zh_retrieval.server.problems import RequestError
from zh_retrieval.server.served import Served

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two proofs of a model that failed


class Health:
    """Knows why the server is not ready, if it is not. Used in the event loop only."""

    def __init__(self, served: Sequence[Served[Any]]) -> None:
        self._served = served
        self._suspects: dict[Served[Any], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self._loaded = asyncio.Event()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to load."""
        self._run(self._load())

    async def ended(self) -> None:
        """Wait until everything is loaded.

        Raises:
            Exception: Whatever kept a model from being loaded.
        """
        await self._loaded.wait()
        if self.failure is not None:
            raise self.failure

    def drain(self) -> None:
        """Take no more work: what was taken is finished."""
        self.draining = True

    async def close(self) -> None:
        """Stop what goes on, and give the weights back."""
        self.draining = True
        for task in tuple(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for served in self._served:
            await asyncio.to_thread(served.close)

    @property
    def why_not_ready(self) -> str | None:
        """Return what is wrong; None for nothing."""
        return self._no_work or next(iter(self._suspects.values()), None)

    def check_work(self) -> None:
        """Raise RequestError 503 if no work is taken now."""
        reason = self._no_work
        if reason is not None:
            raise RequestError(503, reason, "not_ready")

    @property
    def _no_work(self) -> str | None:
        if self.draining:
            return "The server is shutting down. Ask another one."
        if self.failure is not None:
            return f"A model could not be loaded ({type(self.failure).__name__}). See the server's log."
        return None if self._loaded.is_set() else "The models are still being loaded. Try again soon."

    def suspect(self, served: Served[Any], error: BaseException) -> None:
        """Doubt a model that failed, until it gives its first results again; load it anew if it was lost."""
        if served in self._suspects or self.draining:
            return
        self._suspects[served] = f"{served.name} failed with {type(error).__name__} and has not proved right since."
        self._run(self._prove(served))

    async def _load(self) -> None:
        try:
            for served in self._served:
                await asyncio.to_thread(served.load)
                logger.info("%s is ready", served.name)
        except Exception as error:
            logger.error("The server cannot start: %s", error)
            self.failure = error
        self._loaded.set()

    async def _prove(self, served: Served[Any]) -> None:
        while served in self._suspects:
            try:
                try:
                    await asyncio.to_thread(served.prove)
                except ClosedError:
                    await asyncio.to_thread(served.load)
            except Exception as error:
                logger.error("%s does not prove right: %s", served.name, error)
                await asyncio.sleep(_PAUSE)
            else:
                del self._suspects[served]
                logger.info("%s proved right again", served.name)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
