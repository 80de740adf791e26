"""One worker thread for each engine: merges the work of all callers into token-budget batches, in turn.

The worker alone owns the queues. Others leave mail, which takes no lock of ours: callers, garbage collections that
release a model, a signal handler that interrupts either.
"""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, nullcontext, suppress
from queue import Empty, SimpleQueue

import numpy as np

from zh_retrieval import process
from zh_retrieval.engine.base import Engine, Pending
from zh_retrieval.engine.room import Room
from zh_retrieval.engine.turns import Job, Priority, Share, Turns
from zh_retrieval.errors import CheckpointError, ClosedError
from zh_retrieval.sequence import Tokens

logger = logging.getLogger(__name__)

_STREAK = 8  # interactive batches in a row after which waiting bulk work gets one batch
_PATIENCE = 0.1  # seconds that `close` waits for a worker that has nothing to do

Freed = tuple[Priority, int]
_Mail = Job | Freed | None  # work, room that is free again, or only a reason to wake up


class Scheduler:
    """Owns the worker thread of one engine. Every method may be called from any thread, and from a finalizer."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._closed = False
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        self._mail: SimpleQueue[_Mail] = SimpleQueue()
        self._room = Room()
        self._turns: dict[Priority, Turns] = {"interactive": Turns(), "bulk": Turns()}
        self._jobs: set[Job] = set()  # everything that is not finished; adding and discarding need no lock
        self._streak = 0
        self.batches = self.batch_tokens = 0  # forward passes so far, and the tokens of all of them
        self._idle = True
        self._starting = threading.RLock()  # a garbage collection that starts a thread may come to start it too
        self._thread: threading.Thread | None = None
        self.ended: Future[None] = Future()

    def reserve(
        self, tokens: int, priority: Priority = "bulk", *, limit: int | None = None, refuse: bool = False
    ) -> Future[None] | None:
        """Count about `tokens` tokens as waiting: None if the queue has room, else the future of it.

        Whoever was let in gives the room back by a job with `reserved=tokens`, or by `free`.

        Raises:
            OverloadedError: There is no room, and `refuse` is true.
            ClosedError: The model was closed.
        """
        self._check_open()
        room = self._room.reserve(priority, tokens, limit, refuse)
        if room is not None:
            self._wake()
        return room

    def free(self, tokens: int, priority: Priority) -> None:
        """Give back room that was reserved and is not used."""
        self._mail.put((priority, tokens))
        self._wake()

    def submit(
        self, tokens: Sequence[Tokens], priority: Priority = "bulk", call: Hashable = None
    ) -> Future[np.ndarray]:
        """Return the future of float32 (R, width) for `tokens`, which must not be empty."""
        return self.enqueue(Job(tokens, priority, call))

    def enqueue(self, job: Job) -> Future[np.ndarray]:
        """Let a job wait for its turn; never blocks. Cancelling its future drops what has not started.

        Raises:
            ClosedError: The model was closed.
        """
        self._jobs.add(job)
        if self._closed:  # looked at after adding: `close` fails the job, or we do
            self._jobs.discard(job)
            self._check_open()
        self._mail.put(job)
        self._wake()
        if self.ended.done():  # closed at the same moment: the job has failed, and nobody reads it any more
            self._forget()
        return job.future

    @property
    def waiting(self) -> int:
        """Return about how many tokens wait."""
        return self._room.tokens("interactive") + self._room.tokens("bulk")

    @property
    def closed(self) -> bool:
        """Return True if no more work is taken."""
        return self._closed

    def close(self) -> None:
        """Refuse new work, and fail what waits with ClosedError; the batch that runs ends, nobody waits for it."""
        self.retire()
        self._room.close()
        for job in tuple(self._jobs):
            if job.waits:
                job.fail(ClosedError("The model was closed before this work was done."))
        if self._idle and self._thread is not threading.current_thread():
            self.join(_PATIENCE)  # it ends at once, and what it holds is free when this returns

    def retire(self) -> None:
        """Refuse new work when nobody waits any more. Made for finalizers: takes no lock and waits for nothing."""
        self._closed = True
        self._mail.put(None)
        if self._thread is None:
            self._engine = None
            self._end()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the worker has ended after `close`, at most `timeout` seconds."""
        with suppress(TimeoutError, FutureTimeoutError):
            self.ended.result(timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("The model was closed. Load it again.")

    def _wake(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="zh-retrieval", daemon=True)
                    try:
                        self._thread.start()
                    except BaseException:
                        self._thread = None
                        raise

    def _work(self) -> None:
        """Compute until closed; whatever escapes fails everything that waits, so that nobody waits for ever."""
        try:
            with self._activated():
                self._compute()
        except BaseException as error:
            self._abandon(error)
        finally:
            with process.forks_wait():
                self._engine = None
            process.forks_wait_for_end()
            self._end()

    def _activated(self) -> AbstractContextManager[object]:
        return nullcontext() if self._engine is None else self._engine.activate()

    def _compute(self) -> None:
        """Start the next batch while the one before it is computed."""
        flying: tuple[list[Share], Pending] | None = None
        while True:
            self._read_mail(wait=flying is None)
            batch = self._next()
            if batch is None and flying is None:
                return
            launched = self._launch(batch) if batch else None
            if flying is not None:
                self._deliver(*flying)
            flying = launched
            if flying is not None and _ready(flying[1]):
                self._deliver(*flying)
                flying = None
            batch = launched = None  # nothing of a finished job stays alive while waiting

    def _read_mail(self, *, wait: bool) -> None:
        """Take what has come; wait for something to do if there is nothing."""
        while True:
            try:
                self._sort(self._mail.get_nowait())
            except Empty:
                if self._closed or not wait or any(self._turns.values()):
                    return
                self._drop()
                self._idle = True
                mail = self._mail.get()
                self._idle = False
                self._sort(mail)
                del mail

    def _sort(self, mail: _Mail) -> None:
        if isinstance(mail, Job):
            self._turns[mail.priority].add(mail)
        elif mail is not None:
            self._room.free(*mail)

    def _next(self) -> list[Share] | None:
        if self._closed or self._engine is None:
            return None
        turns = self._choose()
        shares = turns.take(self._engine.max_batch_tokens) if turns else None
        for job, _ in shares or ():
            if not job.waits:
                self._leave(job)
        self._drop()
        return shares or None

    def _choose(self) -> Turns:
        interactive, bulk = self._turns["interactive"], self._turns["bulk"]
        if interactive and not (self._streak >= _STREAK and bulk):
            self._streak += 1
            return interactive
        self._streak = 0
        return bulk

    def _drop(self) -> None:
        for turns in self._turns.values():
            for job in turns.dropped:
                job.drop()
                self._jobs.discard(job)
                self._leave(job)
            turns.dropped.clear()

    def _leave(self, job: Job) -> None:
        """Give back the room that a job took while it waited."""
        if job.reserved:
            self._room.free(job.priority, job.reserved)
            job.reserved = 0

    def _launch(self, shares: list[Share]) -> tuple[list[Share], Pending] | None:
        assert self._engine is not None
        try:
            with process.forks_wait():
                batch = [job.tokens[index] for job, indices in shares for index in indices]
                self.batches += 1
                self.batch_tokens += sum(len(tokens.ids) for tokens in batch)
                return shares, self._engine.launch(batch)
        except Exception as error:
            self._isolate(shares, error)
            return None

    def _deliver(self, shares: list[Share], pending: Pending) -> None:
        try:
            with process.forks_wait():
                rows = pending.result()
        except Exception as error:
            self._isolate(shares, error)
            return
        low = 0
        for job, indices in shares:
            count = sum(job.tokens[index].rows for index in indices)
            self._accept(job, indices, rows[low : low + count])
            low += count

    def _isolate(self, shares: list[Share], error: Exception) -> None:
        """Compute each share of a failed batch alone: one caller's failure is not another's."""
        if self._is_fatal(error):
            raise error
        if len(shares) == 1:
            self._fail(shares[0][0], error)
            return
        for share in shares:
            alone = self._launch([share])
            if alone is not None:
                self._deliver(*alone)

    def _is_fatal(self, error: BaseException) -> bool:
        return self._engine is not None and self._engine.is_fatal(error)

    def _accept(self, job: Job, indices: list[int], rows: np.ndarray) -> None:
        if not job.future.done():
            try:
                if np.isfinite(rows).all():
                    job.accept(indices, rows)
                else:
                    job.fail(CheckpointError(_not_finite(str(getattr(self._engine, "dtype", "")))))
            except Exception as error:  # no memory for this caller's rows
                job.fail(error)
        if job.future.done():
            job.drop()
            self._jobs.discard(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        traceback.clear_frames(error.__traceback__)  # a caller who keeps the error keeps no weights with it
        job.fail(error)
        job.drop()
        self._jobs.discard(job)

    def _abandon(self, error: BaseException) -> None:
        self._closed = True
        logger.error("The worker of a model stopped: the model is closed, and loads anew when asked.", exc_info=error)
        self._end(error)

    def _end(self, cause: BaseException | None = None) -> None:
        """Fail what is left, so that nobody waits for a worker that is gone."""
        self._room.close()
        for job in tuple(self._jobs):
            closed = ClosedError(f"The model was closed before this work was done{_because(cause)}. Load it again.")
            closed.__cause__ = cause
            self._fail(job, closed)
        self._forget()
        if not self.ended.done():
            self.ended.set_result(None)

    def _forget(self) -> None:
        """Keep nothing of a call: an error knows its frames, these their session, whose finalizer knows this model."""
        self._mail = SimpleQueue()
        self._turns = {"interactive": Turns(), "bulk": Turns()}


def _ready(pending: Pending) -> bool:
    """Return True if `result` does not wait; a device that cannot say this says what is wrong in `result`."""
    try:
        return pending.ready
    except Exception:
        return True


def _because(cause: BaseException | None) -> str:
    return "" if cause is None else f": its worker stopped with {type(cause).__name__}: {cause}"


def _not_finite(dtype: str) -> str:
    if dtype.endswith("float16") and not dtype.endswith("bfloat16"):
        return "The model gave NaN or Inf: float16 holds nothing above 65504. Use dtype='bfloat16' or 'float32'."
    return "The model gave NaN or Inf. Try dtype='float32', or fetch the weights again."


_ALIVE: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    """Start anew in a forked child: the worker and the callers of the parent do not exist here."""
    for scheduler in list(_ALIVE):
        scheduler._reset()


def _at_exit() -> None:
    """Let the batches that run end: an interpreter that ends under a thread inside torch is aborted."""
    schedulers = list(_ALIVE)
    for scheduler in schedulers:
        scheduler.close()
    for scheduler in schedulers:
        if scheduler._thread is not None:
            scheduler._thread.join()


process.in_child(_after_fork)
process.at_exit(_at_exit)
