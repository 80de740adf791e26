"""A call on its way through the scheduler, slice by slice: two at a time, one tokenized while one is computed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from zh_retrieval import usage
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.turns import Job, Priority
from zh_retrieval.local.call import Call, Limits, Slice
from zh_retrieval.local.threads import tokenizing
from zh_retrieval.progress import Bar

_PENDING = 2  # slices in the queue at once: one is computed while the next is tokenized
_PROGRESS = 0.1  # seconds between two looks at how far a slice is

ResultT = TypeVar("ResultT")


class Waiting(Protocol):
    """How a call waits: in the calling thread, or while an event loop goes on."""

    async def result(self, future: Future[ResultT], look: Callable[[], None] | None = None) -> ResultT:
        """Return a future's result; `look` is called now and then until it is there."""
        ...

    async def tokenized(self, part: Slice, prepare: Callable[[Slice], ResultT]) -> ResultT:
        """Return `prepare(part)`, which reads the characters of the slice."""
        ...


class Blocking:
    """Waits in the calling thread: what awaits this alone never suspends."""

    async def result(self, future: Future[ResultT], look: Callable[[], None] | None = None) -> ResultT:
        """See `Waiting.result`."""
        while look is not None and not future.done():
            wait([future], timeout=_PROGRESS)
            look()
        return future.result()

    async def tokenized(self, part: Slice, prepare: Callable[[Slice], ResultT]) -> ResultT:
        """See `Waiting.tokenized`."""
        return prepare(part)


class Awaiting:
    """Waits while the event loop goes on; a task that is cancelled meanwhile cancels what it waits for."""

    async def result(self, future: Future[ResultT], look: Callable[[], None] | None = None) -> ResultT:
        """See `Waiting.result`."""
        awaited = asyncio.wrap_future(future)
        while look is not None and not awaited.done():
            await asyncio.wait([awaited], timeout=_PROGRESS)
            look()
        return await awaited

    async def tokenized(self, part: Slice, prepare: Callable[[Slice], ResultT]) -> ResultT:
        """See `Waiting.tokenized`."""
        return await tokenizing(part.characters, prepare, part)


class CallRunner:
    """Takes a call through the scheduler. Use as a context manager: what is left at its end is dropped."""

    def __init__(self, call: Call, scheduler: Scheduler, limits: Limits, show_progress: bool) -> None:
        self._call = call
        self._scheduler = scheduler
        self._limits = limits
        self._bar = Bar(show_progress, total=call.count, unit="text")
        self._pending: deque[tuple[Slice, Job]] = deque()
        self._unused = 0  # tokens of room that were reserved, and have no job yet
        self._priority: Priority = "bulk"
        self._turn = object()  # slices of one call take one turn

    def __enter__(self) -> CallRunner:
        """Return the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is not done, and give its room back."""
        for _part, job in self._pending:
            job.future.cancel()
        usage.note(self._call.used)
        if self._unused:
            self._scheduler.free(self._unused, self._priority)
        self._bar.close()

    def run(self) -> None:
        """Compute everything, in the calling thread's time."""
        steps = self._compute(Blocking())
        try:
            steps.send(None)
        except StopIteration:
            return
        raise AssertionError("What waits in the calling thread never suspends.")

    async def arun(self) -> None:
        """Compute everything while the event loop goes on."""
        await self._compute(Awaiting())

    async def _compute(self, waiting: Waiting) -> None:
        for part in self._slices():
            room = self._reserve(part)
            if room is not None:
                with self._given_back(room, part):
                    await waiting.result(room)
            self._submit(part, await waiting.tokenized(part, self._prepare))
            while len(self._pending) >= _PENDING:
                await self._finish_first(waiting)
        while self._pending:
            await self._finish_first(waiting)

    def _slices(self) -> Iterator[Slice]:
        for number, part in enumerate(self._call.slices(self._limits)):
            if number == 0 and part.high == self._call.count:
                self._priority = self._scheduler.priority(part.tokens)
            yield part

    def _reserve(self, part: Slice) -> Future[None] | None:
        # a call that was let in is not sent away half done
        refuse = self._limits.when_full == "refuse" and part.low == 0
        room = self._scheduler.reserve(part.tokens, self._priority, limit=self._limits.queue, refuse=refuse)
        if room is None:
            self._unused = part.tokens
        return room

    @contextmanager
    def _given_back(self, room: Future[None], part: Slice) -> Iterator[None]:
        """Wait for room in the block; room that comes when nobody waits any more is given back."""

        def give_back(late: Future[None]) -> None:
            if not late.cancelled() and late.exception() is None:
                self._scheduler.free(part.tokens, self._priority)

        try:
            yield
        except BaseException:
            room.cancel()
            room.add_done_callback(give_back)
            raise
        self._unused = part.tokens

    def _prepare(self, part: Slice) -> Job:
        return Job(self._call.prepare(part.low, part.high), self._priority, self._turn, part.tokens)

    def _submit(self, part: Slice, job: Job) -> None:
        self._scheduler.enqueue(job)
        self._unused = 0
        self._pending.append((part, job))

    async def _finish_first(self, waiting: Waiting) -> None:
        """Wait for the slice that was queued first, and put its rows in their places."""
        part, job = self._pending[0]

        def look() -> None:
            self._bar.reach(part.low + (part.high - part.low) * job.done // len(job.tokens))

        rows: np.ndarray = await waiting.result(job.future, look if self._bar.shown else None)
        self._call.finish(part.low, part.high, rows)
        self._pending.popleft()
        self._call.used.queued = max(self._call.used.queued, job.waited or 0.0)
        self._bar.reach(part.high)
