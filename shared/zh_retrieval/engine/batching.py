"""Batches by token budget, of jobs in turn: what is computed next, and how everybody gets their rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from zh_retrieval import process
from zh_retrieval.engine.base import Engine, Pending
from zh_retrieval.engine.pace import Pace
from zh_retrieval.engine.room import Room
from zh_retrieval.engine.shortest import Shortest
from zh_retrieval.engine.turns import Job, Share, Turns
from zh_retrieval.errors import CheckpointError

_PASSED = 8  # passes, or as many tokens as they would have, that go ahead of work that waits: then it gets one


class Running(NamedTuple):
    """A batch that an engine computes.

    Attributes:
        shares: What it is made of.
        pending: Its rows.
        tokens: Of all its sequences.
        launched: When it was started (seconds of the pace's clock).
    """

    shares: list[Share]
    pending: Pending
    tokens: int
    launched: float


class Batcher:
    """The jobs that wait, and the batches made of them. The worker alone uses it.

    Attributes:
        pace: How fast it computes.
        engine: What computes; None when nothing is computed any more. No frame has it as a local variable where it
            raises: whoever keeps an error keeps its frames, and would keep the weights.
        batches: Forward passes so far.
        tokens: Of all of them.
        launched: When the last pass began (monotonic seconds); None: nothing is computed.
    """

    def __init__(
        self,
        engine: Engine | None,
        jobs: set[Job],
        room: Room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make batches of jobs that are in `jobs` until they are finished, and take `room` while they wait."""
        self.pace = Pace(clock)
        self.engine = engine
        self._jobs = jobs
        self._room = room
        self._finished = float("-inf")  # when the last pass was
        self.batches = self.tokens = 0
        self.launched: float | None = None
        self.forget()

    def activate(self) -> AbstractContextManager[object]:
        """Return what the worker enters before its first batch and leaves after its last."""
        return nullcontext() if self.engine is None else self.engine.activate()

    def forget(self) -> None:
        """Keep no job that waits."""
        self._questions, self._small, self._bulk = Shortest(self.pace), Shortest(self.pace), Turns()
        self._levels: tuple[Shortest | Turns, ...] = self._questions, self._small, self._bulk  # who goes first
        self._passed = [0.0] * len(self._levels)  # passes that went ahead of each

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        if job.priority == "bulk":
            self._bulk.add(job)
        else:
            (self._questions if self.pace.is_question(sum(job.lengths)) else self._small).add(job)

    def __bool__(self) -> bool:
        """Return True if a job waits."""
        return any(self._levels)

    def next(self) -> list[Share] | None:
        """Return what the next batch computes; None if nothing waits, or nothing computes any more."""
        if self.engine is None:
            return None
        most = self.engine.max_batch_tokens
        shares = self._take(most)
        for job, _ in shares:
            if not job.waits:
                self._leave(job)
        self.drop()
        return shares or None

    def _take(self, most: int) -> list[Share]:
        """Return the shares of whoever's turn it is. Questions are computed together, and never cut.

        Others get passes that are short while somebody asks.
        """
        if self._questions and (self._small or self._bulk):
            self.pace.asked()
        waiting = [number for number, level in enumerate(self._levels) if level]
        if not waiting:
            return []
        longest = max(waiting, key=lambda number: self._passed[number])
        chosen = longest if self._passed[longest] >= _PASSED else waiting[0]
        level, budget = self._levels[chosen], self.pace.budget(most)
        shares = level.take(most if level is self._questions else budget)
        tokens = sum(job.lengths[index] for job, indices in shares for index in indices)
        for number in range(len(self._levels)):
            passed = number in waiting and number != chosen
            self._passed[number] = self._passed[number] + max(1.0, tokens / budget) if passed else 0.0
        return shares

    def drop(self) -> None:
        """Let go of jobs that nobody waits for any more, and give back their room."""
        for level in self._levels:
            for job in level.dropped:
                job.drop()
                self._jobs.discard(job)
                self._leave(job)
            level.dropped.clear()

    def _leave(self, job: Job) -> None:
        """Give back the room that a job took while it waited."""
        if job.reserved:
            self._room.free(job.priority, job.reserved)
            job.reserved = 0

    def launch(self, shares: list[Share]) -> Running | None:
        """Start a batch; None if that failed, and all of it was computed alone or failed."""
        assert self.engine is not None
        try:
            with process.forks_wait():
                batch = [job.tokens[index] for job, indices in shares for index in indices]
                self.batches += 1
                self.launched = time.monotonic()
                tokens = sum(len(item.ids) for item in batch)
                self.tokens += tokens
                launched = self.pace.clock()
                return Running(shares, self.engine.launch(batch), tokens, launched)
        except Exception as error:
            self._isolate(shares, error)
            return None

    def deliver(self, running: Running) -> None:
        """Wait for a batch, and give every job its rows."""
        shares, pending, tokens, launched = running
        try:
            with process.forks_wait():
                rows = pending.result()
        except Exception as error:
            del running, pending  # they may hold the engine, and the error holds this frame
            self._isolate(shares, error)
            return
        self._measure(shares, tokens, launched)
        low = 0
        for job, indices in shares:
            count = sum(job.tokens[index].rows for index in indices)
            self._accept(job, indices, rows[low : low + count])
            low += count

    def _measure(self, shares: list[Share], tokens: int, launched: float) -> None:
        """Tell the pace how long a pass took: since it began, or since the one before it was finished."""
        now = self.pace.clock()
        seconds, self._finished = now - max(launched, self._finished), now
        question = all(job.priority == "interactive" and self.pace.is_question(sum(job.lengths)) for job, _ in shares)
        self.pace.computed(tokens, seconds, question)

    def _isolate(self, shares: list[Share], error: Exception) -> None:
        """Compute each share of a failed batch alone: one caller's failure is not another's."""
        if self.engine is not None and self.engine.is_fatal(error):
            raise error
        if len(shares) == 1:
            self.fail(shares[0][0], error)
            return
        for share in shares:
            alone = self.launch([share])
            if alone is not None:
                self.deliver(alone)

    def _accept(self, job: Job, indices: list[int], rows: np.ndarray) -> None:
        if not job.future.done():
            try:
                if np.isfinite(rows).all():
                    job.accept(indices, rows)
                else:
                    job.fail(CheckpointError(_not_finite(str(getattr(self.engine, "dtype", "")))))
            except Exception as error:  # no memory for this caller's rows
                job.fail(error)
        if job.future.done():
            job.drop()
            self._jobs.discard(job)

    def fail(self, job: Job, error: BaseException) -> None:
        """Give an error to whoever waits for a job, and let go of it."""
        traceback.clear_frames(error.__traceback__)  # a caller who keeps the error keeps no weights with it
        job.fail(error)
        job.drop()
        self._jobs.discard(job)


def is_ready(running: Running) -> bool:
    """Return True if `deliver` does not wait; a device that cannot say this says what is wrong in `result`."""
    try:
        return running.pending.ready
    except Exception:
        return True


def _not_finite(dtype: str) -> str:
    if dtype.endswith("float16") and not dtype.endswith("bfloat16"):
        return "The model gave NaN or Inf: float16 holds nothing above 65504. Use dtype='bfloat16' or 'float32'."
    return "The model gave NaN or Inf. Try dtype='float32', or fetch the weights again."
