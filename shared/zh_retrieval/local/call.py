"""One call: inputs cut into slices, each tokenized, computed and put in its place, two under way at a time."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from zh_retrieval import process, usage
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.turns import Job, Priority
from zh_retrieval.errors import InputError
from zh_retrieval.options import Overflow, WhenFull
from zh_retrieval.progress import Bar
from zh_retrieval.sequence import Tokens
from zh_retrieval.validation import is_list

logger = logging.getLogger(__name__)

_FLYING = 2  # slices under way at once: one is computed while the next is tokenized
_INTERACTIVE_INPUTS, _INTERACTIVE_TOKENS = 64, 32_768  # a call of at most so much goes ahead of bulk work
_INLINE_TOKENS = 4096  # about as much text is tokenized on the event loop: quicker than a thread
_PROGRESS = 0.1  # seconds between two looks at how far a slice is

ItemT = TypeVar("ItemT", bound=Hashable)


class Slice(NamedTuple):
    """Inputs low to high of a call, and about how many tokens they are."""

    low: int
    high: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a call is tokenized at once, and how much may wait.

    Attributes:
        inputs: Inputs of a slice: sorted by length together.
        tokens: About the tokens of a slice; one longer input is a slice of its own.
        queue: Tokens that may wait for each priority; None is the default.
        when_full: "wait", or "refuse" with OverloadedError.
    """

    inputs: int = 2048
    tokens: int = 262_144
    queue: int | None = None
    when_full: WhenFull = "wait"


class Call(ABC):
    """`count` inputs, made into sequences slice by slice, and what becomes of their rows.

    Attributes:
        count: How many inputs.
        used: Tokens and cuts so far.
    """

    count: int

    def __init__(self) -> None:
        self.used = usage.Usage()

    @abstractmethod
    def size(self, index: int) -> int:
        """Return about how many tokens input `index` is."""

    @abstractmethod
    def prepare(self, low: int, high: int) -> list[Tokens]:
        """Return the sequences of inputs low to high."""

    @abstractmethod
    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        """Take float32 (R, width), the rows of `prepare(low, high)`."""

    def slices(self, limits: Limits) -> Iterator[Slice]:
        """Yield the slices in order."""
        low = tokens = 0
        for index in range(self.count):
            size = self.size(index)
            if index > low and (index - low >= limits.inputs or tokens + size > limits.tokens):
                yield Slice(low, index, tokens)
                low, tokens = index, 0
            tokens += size
        if low < self.count:
            yield Slice(low, self.count, tokens)


class Flight:
    """A call on its way through the scheduler. Use as a context manager: what is left at its end is dropped."""

    def __init__(self, call: Call, scheduler: Scheduler, limits: Limits, show_progress: bool) -> None:
        self._call = call
        self._scheduler = scheduler
        self._limits = limits
        self._bar = Bar(show_progress, total=call.count, unit="text")
        self._flying: deque[tuple[Slice, Job]] = deque()
        self._unused = 0  # tokens of room that were reserved, and have no job yet
        self._priority: Priority = "bulk"
        self._turn = object()  # slices of one call take one turn

    def __enter__(self) -> Flight:
        """Return the flight."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is not done, and give its room back."""
        for _part, job in self._flying:
            job.future.cancel()
        usage.note(self._call.used)
        if self._unused:
            self._scheduler.free(self._unused, self._priority)
        self._bar.close()

    def run(self) -> None:
        """Compute everything, in the calling thread's time."""
        for part in self._slices():
            room = self._reserve(part)
            if room is not None:
                with self._given_back(room, part):
                    room.result()
            self._submit(part, self._prepare(part))
            while len(self._flying) >= _FLYING:
                self._land()
        while self._flying:
            self._land()

    async def arun(self) -> None:
        """Compute everything while the event loop goes on."""
        for part in self._slices():
            room = self._reserve(part)
            if room is not None:
                with self._given_back(room, part):
                    await asyncio.wrap_future(room)
            if part.tokens <= _INLINE_TOKENS:
                job = self._prepare(part)
            else:
                job = await asyncio.get_running_loop().run_in_executor(tokenizers(), self._prepare, part)
            self._submit(part, job)
            while len(self._flying) >= _FLYING:
                await self._aland()
        while self._flying:
            await self._aland()

    def _slices(self) -> Iterator[Slice]:
        for number, part in enumerate(self._call.slices(self._limits)):
            if number == 0 and part.high == self._call.count:
                small = self._call.count <= _INTERACTIVE_INPUTS and part.tokens <= _INTERACTIVE_TOKENS
                self._priority = "interactive" if small else "bulk"
            yield part

    def _reserve(self, part: Slice) -> Future[None] | None:
        refuse = (
            self._limits.when_full == "refuse" and part.low == 0
        )  # a call that was let in is not sent away half done
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
        self._flying.append((part, job))

    def _land(self) -> None:
        part, job = self._flying[0]
        while self._bar.shown and not job.future.done():
            try:
                job.future.result(_PROGRESS)
            except FutureTimeoutError:
                if not job.future.done():  # not an error of the work
                    self._reach(part, job)
        self._finish(part, job.future.result())

    async def _aland(self) -> None:
        part, job = self._flying[0]
        future = asyncio.wrap_future(job.future)
        while self._bar.shown and not future.done():
            await asyncio.wait([future], timeout=_PROGRESS)
            self._reach(part, job)
        self._finish(part, await future)

    def _reach(self, part: Slice, job: Job) -> None:
        self._bar.reach(part.low + (part.high - part.low) * job.done // len(job.tokens))

    def _finish(self, part: Slice, rows: np.ndarray) -> None:
        self._call.finish(part.low, part.high, rows)
        self._flying.popleft()
        self._bar.reach(part.high)


_TOKENIZERS: list[ThreadPoolExecutor] = []  # one, made when first needed


def tokenizers() -> ThreadPoolExecutor:
    """Return the threads that tokenize for event loops: not the loop's own, which others need for names and files."""
    if not _TOKENIZERS:
        _TOKENIZERS.append(ThreadPoolExecutor(4, thread_name_prefix="zh-retrieval-text"))
    return _TOKENIZERS[0]


process.in_child(_TOKENIZERS.clear)


def snapshot(inputs: Any) -> Any:
    """Return what was given at the call, as a tuple, whatever becomes of the caller's list; no list as it is."""
    return tuple(inputs) if is_list(inputs) else inputs


def distinct(items: Sequence[ItemT]) -> tuple[list[ItemT], list[int]]:
    """Return the different items, and the place among them of each input.

    Equal inputs are computed once: quicker, and their results are equal to the last bit, so that ties are ties.
    """
    places: dict[ItemT, int] = {}
    found = [places.setdefault(item, len(places)) for item in items]
    return list(places), found


class Truncation:
    """Counts what a call cuts, or refuses it."""

    def __init__(self, overflow: Overflow, max_length: int, what: str, used: usage.Usage) -> None:
        self._overflow = overflow
        self._max_length = max_length
        self._what = what
        self._used = used
        self._longest = 0

    def note(self, index: int, length: int) -> None:
        """Record that input `index` has `length` tokens, more than `max_length`.

        Raises:
            InputError: overflow is "error".
        """
        if self._overflow == "error":
            raise InputError(
                f"{self._what}[{index}] has {length} tokens, expected at most {self._max_length}. "
                "Shorten it, or use overflow='truncate'."
            )
        self._used.cut += 1
        self._used.lost += length - self._max_length
        self._longest = max(self._longest, length)

    def report(self, count: int) -> None:
        """Log one warning if anything was cut."""
        if self._used.cut:
            logger.warning(
                "%d of %d %s were cut to %d tokens (the longest has %d). Split them, or use overflow='error'.",
                self._used.cut, count, self._what, self._max_length, self._longest,
            )  # fmt: skip
