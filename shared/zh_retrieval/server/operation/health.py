"""Whether the server may be asked: loading, proving right answers, stuck, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from zh_retrieval.errors import ClosedError
from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.models.threads import apart
from zh_retrieval.server.operation.memory import Memory

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two proofs of a model that failed
_LOOK = 0.25  # seconds between two looks at what is computed
_LONGEST_DOUBT = 64.0  # seconds that a model is doubted at most after its proof, when requests fail all the same


class Health:
    """Knows why the server is not ready, if it is not. Used in the event loop only."""

    def __init__(self, served: Sequence[ServedModel[Any]], max_wait: float = 30.0) -> None:
        self._served = served
        self._max_wait = max_wait
        self._suspects: dict[ServedModel[Any], str] = {}
        self._failures: dict[ServedModel[Any], int] = {}  # doubts in a row, without a success between
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
            await apart(served.close)

    @property
    def why_not_ready(self) -> str | None:
        """Return what is wrong; None for nothing."""
        stuck = (served.watch.reason for served in self._served)
        return self._no_work or next(filter(None, stuck), None) or next(iter(self._suspects.values()), None)

    @property
    def why_dead(self) -> str | None:
        """Return what only a new process mends; None for nothing."""
        return next((served.watch.reason for served in self._served if served.watch.dead), None)

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

    def suspect(self, served: ServedModel[Any], error: BaseException) -> None:
        """Doubt a model that failed, until it gives its first results again; load it anew if it was lost."""
        if served in self._suspects or self.draining:
            return
        self._failures[served] = self._failures.get(served, 0) + 1
        self._suspects[served] = f"{served.name} failed with {type(error).__name__} and has not proved right since."
        self._run(self._prove(served))

    def trust(self, served: ServedModel[Any]) -> None:
        """Take a request for one that went well."""
        self._failures.pop(served, None)

    async def _load(self) -> None:
        try:
            for served in self._served:
                await apart(served.load)
                logger.info("%s is ready", served.name)
        except Exception as error:
            logger.error("The server cannot start: %s", error)
            self.failure = error
        else:
            self._run(self._look())
        self._loaded.set()

    async def _look(self) -> None:
        """Watch over what is computed, and let only so much wait as is computed in `max_wait` seconds."""
        memory = Memory()
        while True:
            if memory.due:
                await apart(memory.give_back)
            for served in self._served:
                was = served.watch.stuck
                served.watch.look()
                if served.watch.stuck != was:
                    logger.error("%s", served.watch.reason or f"{served.name} goes on")
                if served.watch.rate is not None:
                    served.limit_queue(int(self._max_wait * served.watch.rate))
            await asyncio.sleep(_LOOK)

    async def _prove(self, served: ServedModel[Any]) -> None:
        while served in self._suspects:
            try:
                try:
                    await apart(served.prove)
                except ClosedError:
                    await apart(served.load)
                    self.trust(served)  # another model, which has failed nobody
            except Exception as error:
                logger.error("%s does not prove right: %s", served.name, error)
                await asyncio.sleep(_PAUSE)
            else:
                await self._doubt(served)
                del self._suspects[served]
                logger.info("%s proved right again", served.name)

    async def _doubt(self, served: ServedModel[Any]) -> None:
        """Wait for a request that goes well where several failed in a row: the proof is smaller than they were."""
        end = time.monotonic() + min(_LONGEST_DOUBT, 2.0 ** self._failures.get(served, 0))
        while self._failures.get(served, 0) > 1 and time.monotonic() < end:
            reason = f"{served.name} failed {self._failures[served]} times in a row."
            self._suspects[served] = reason
            await asyncio.sleep(_LOOK)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
