"""One worker thread per engine: merges the work of all callers into token-budget batches, queries ahead of bulk."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol

import numpy as np

from zh_retrieval.errors import CheckpointError, ClosedError
from zh_retrieval.sequence import Tokens, by_length, fill

logger = logging.getLogger(__name__)

Priority = Literal["query", "bulk"]

_QUEUE_TOKENS = 4_000_000  # waiting tokens after which `submit` blocks
_QUERY_STREAK = 8  # query batches in a row after which waiting bulk work gets one batch


class PendingRows(Protocol):
    """Rows that a device may still be computing."""

    @property
    def ready(self) -> bool: ...

    def result(self) -> np.ndarray: ...


class Runner(Protocol):
    """What the scheduler drives: an `Engine`, or a fake of one."""

    width: int
    max_batch_tokens: int

    def launch(self, tokens: Sequence[Tokens]) -> PendingRows: ...


class Job:
    """One call's sequences, and the future of its float32 (R, width) rows in the caller's order."""

    __slots__ = ("future", "on_rows", "order", "rows", "starts", "taken", "tokens", "unfinished", "waiting_tokens")

    def __init__(self, tokens: Sequence[Tokens], on_rows: Callable[[int, int], None] | None) -> None:
        self.tokens = tokens
        self.on_rows = on_rows
        self.future: Future[np.ndarray] = Future()
        self.order = by_length([len(item.ids) for item in tokens]) if len(tokens) > 1 else [0]
        self.taken = 0
        self.unfinished = len(tokens)
        self.waiting_tokens = sum(len(item.ids) for item in tokens)
        self.starts: list[int] = [0]
        for item in tokens:
            self.starts.append(self.starts[-1] + item.rows)
        self.rows: np.ndarray | None = None


Share = tuple[Job, list[int]]  # the indices of a job that are part of a batch


class Scheduler:
    """Owns the worker thread of one engine. Every method may be called from any thread."""

    def __init__(self, engine: Runner) -> None:
        self._engine = engine
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._queues: dict[Priority, deque[Job]] = {"query": deque(), "bulk": deque()}
        self._queued_tokens = 0
        self._streak = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._flying: tuple[list[Share], PendingRows] | None = None  # launched, and not delivered yet
        self._held: list[Share] = []  # what the worker has in hand during a step

    def submit(
        self, tokens: Sequence[Tokens], priority: Priority = "bulk", on_rows: Callable[[int, int], None] | None = None
    ) -> Future[np.ndarray]:
        """Return the future of float32 (R, width) for `tokens`, which must not be empty.

        Blocks while the queue is full. Cancelling the future drops the work that has not started. `on_rows` is called
        from the worker after each batch with how many sequences are done, and of how many.

        Raises:
            ClosedError: The scheduler was closed.
        """
        if not tokens:
            raise ValueError("There is nothing to compute: tokens is empty.")
        job = Job(tokens, on_rows)
        with self._lock:
            while self._queued_tokens >= _QUEUE_TOKENS and not self._closed:
                self._room.wait()
            if self._closed:
                raise ClosedError("The model was closed. Load it again.")
            self._queues[priority].append(job)
            self._queued_tokens += job.waiting_tokens
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="zh-retrieval", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job.future

    @property
    def closed(self) -> bool:
        """Return True if no more work is taken."""
        return self._closed

    def close(self) -> None:
        """Refuse new work, fail what waits with ClosedError, and wait for the batch that runs."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = [job for queue in self._queues.values() for job in queue]
            for queue in self._queues.values():
                queue.clear()
            self._changed.notify_all()
            self._room.notify_all()
            thread = self._thread
        for job in waiting:
            _fail(job, ClosedError("The model was closed before this work was done."))
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        """Compute until closed; whatever escapes fails everything that waits, so that nobody waits for ever."""
        try:
            while self._step():
                pass
        except BaseException as error:
            self._abandon(error)

    def _step(self) -> bool:
        """Start the next batch while the one before it is computed; return False when closed and done."""
        flying, self._flying = self._flying, None
        batch = self._next(wait=flying is None)
        self._held = [*(flying[0] if flying else ()), *(batch or ())]
        if batch is None and flying is None:
            return False
        launched = self._launch(batch) if batch else None
        if flying is not None:
            self._deliver(*flying)
        if launched is not None and launched[1].ready:
            self._deliver(*launched)
            launched = None
        self._flying = launched
        self._held = []
        return True

    def _abandon(self, error: BaseException) -> None:
        with self._lock:
            self._closed = True
            shares = [*self._held, *(self._flying[0] if self._flying else ())]
            jobs = [job for job, _ in shares] + [job for queue in self._queues.values() for job in queue]
            self._flying, self._held = None, []
            for queue in self._queues.values():
                queue.clear()
            self._queued_tokens = 0
            self._room.notify_all()
        logger.error(
            "The worker of a model stopped; the model is closed, and loads anew when asked for.", exc_info=error
        )
        for job in dict.fromkeys(jobs):
            _fail(job, error)

    def _next(self, *, wait: bool) -> list[Share] | None:
        with self._lock:
            while True:
                self._drop_dead()
                queue = self._choose()
                if queue:
                    return self._take(queue)
                if self._closed or not wait:
                    return None
                self._changed.wait()

    def _choose(self) -> deque[Job]:
        queries, bulk = self._queues["query"], self._queues["bulk"]
        if queries and not (bulk and self._streak >= _QUERY_STREAK):
            self._streak += 1
            return queries
        self._streak = 0
        return bulk or queries

    def _drop_dead(self) -> None:
        for queue in self._queues.values():
            for job in [job for job in queue if job.future.done()]:
                queue.remove(job)
                self._release(job.waiting_tokens)

    def _release(self, tokens: int) -> None:
        self._queued_tokens -= tokens
        self._room.notify_all()

    def _take(self, queue: deque[Job]) -> list[Share]:
        """Take sequences from the front jobs until the token budget is full; longest first within a job."""
        budget = self._engine.max_batch_tokens
        shares: list[Share] = []
        while queue and budget > 0:  # a sequence over the budget leaves less than nothing
            job = queue[0]
            lengths = [len(job.tokens[index].ids) for index in _head(job, budget)]
            count = fill(lengths, budget)
            if shares and lengths[0] > budget:
                break
            shares.append((job, job.order[job.taken : job.taken + count]))
            used = sum(lengths[:count])
            job.taken += count
            job.waiting_tokens -= used
            budget -= used
            self._release(used)
            if job.taken < len(job.order):
                break
            queue.popleft()
        return shares

    def _launch(self, shares: list[Share]) -> tuple[list[Share], PendingRows] | None:
        tokens = [job.tokens[index] for job, indices in shares for index in indices]
        try:
            return shares, self._engine.launch(tokens)
        except Exception as error:
            if len(shares) == 1:
                _fail(shares[0][0], error)
                return None
        for share in shares:  # one caller's failure is not another's
            alone = self._launch([share])
            if alone is not None:
                self._deliver(*alone)
        return None

    def _deliver(self, shares: list[Share], pending: PendingRows) -> None:
        try:
            rows = pending.result()
        except Exception as error:
            for job, _ in shares:
                _fail(job, error)
            return
        low = 0
        for job, indices in shares:
            count = sum(job.tokens[index].rows for index in indices)
            _accept(job, indices, rows[low : low + count])
            low += count


def _head(job: Job, budget: int) -> list[int]:
    """Return the job's next indices, no more than could fit."""
    shortest = max(1, len(job.tokens[job.order[-1]].ids))
    return job.order[job.taken : job.taken + budget // shortest + 1]


def _accept(job: Job, indices: list[int], rows: np.ndarray) -> None:
    if job.future.done():
        return
    if not np.isfinite(rows).all():
        _fail(job, CheckpointError("The model gave NaN or Inf. Try dtype='float32', or fetch the weights again."))
        return
    if job.rows is None:
        job.rows = np.empty((job.starts[-1], rows.shape[1]), dtype=np.float32)
    low = 0
    for index in indices:
        start, end = job.starts[index], job.starts[index + 1]
        job.rows[start:end] = rows[low : low + end - start]
        low += end - start
    job.unfinished -= len(indices)
    if job.on_rows is not None:
        try:
            job.on_rows(len(job.tokens) - job.unfinished, len(job.tokens))
        except Exception:  # a bar whose stream is gone is no reason to lose the work
            logger.info("Progress is not shown any more.", exc_info=True)
            job.on_rows = None
    if job.unfinished == 0 and job.future.set_running_or_notify_cancel():
        job.future.set_result(job.rows)


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)


_ALIVE: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    for scheduler in list(_ALIVE):
        closed = scheduler._closed
        scheduler._reset()
        scheduler._closed = closed


def _at_exit() -> None:
    for scheduler in list(_ALIVE):
        scheduler.close()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
