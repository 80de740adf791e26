"""One worker thread for each engine, from its start to its end; what it computes next is `batching`'s.

The worker alone owns the batcher. Others leave mail, which takes no lock of ours: callers, garbage collections that
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
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from zh_retrieval import process
from zh_retrieval.engine.base import Engine
from zh_retrieval.engine.batching import Batcher, Running, is_ready
from zh_retrieval.engine.room import Room
from zh_retrieval.engine.turns import Job, Priority
from zh_retrieval.errors import ClosedError
from zh_retrieval.sequence import Tokens

logger = logging.getLogger(__name__)

_PATIENCE = 0.1  # seconds that `close` waits for a worker that has nothing to do

Freed = tuple[Priority, int]
_Mail = Job | Freed | None  # work, room that is free again, or only a reason to wake up


class Scheduler:
    """Owns an engine's worker thread. Every method may be called from any thread, and from a finalizer.

    Attributes:
        batcher: What makes the batches, and counts them.
        ended: Done when the worker is.
    """

    def __init__(self, engine: Engine) -> None:
        self._closed = False
        self._reset(engine)
        _ALIVE.add(self)

    def _reset(self, engine: Engine | None) -> None:
        self._mail: SimpleQueue[_Mail] = SimpleQueue()
        self._room = Room()
        self._jobs: set[Job] = set()  # everything that is not finished; adding and discarding need no lock
        self.batcher = Batcher(engine, self._jobs, self._room)
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
        if self._closed:  # after adding: `close` fails the job, or we do
            self._jobs.discard(job)
            self._check_open()
        self._mail.put(job)
        self._wake()
        if self.ended.done():  # closed at the same moment: the job has failed, and nobody reads it any more
            self._forget()
        return job.future

    def priority(self, tokens: int) -> Priority:
        """Return "interactive" if about `tokens` tokens take this engine little time."""
        return "interactive" if self.batcher.pace.is_little(tokens) else "bulk"

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
            self.batcher.engine = None
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
            with self.batcher.activate():
                self._compute()
        except BaseException as error:
            self._abandon(error)
        finally:
            with process.forks_wait():
                self.batcher.engine = None
            process.forks_wait_for_end()
            self._end()

    def _compute(self) -> None:
        """Start the next batch while the one before it is computed."""
        running: Running | None = None
        while True:
            self._read_mail(wait=running is None)
            batch = None if self._closed else self.batcher.next()
            if batch is None and running is None:
                return
            launched = self.batcher.launch(batch) if batch else None
            if running is not None:
                self.batcher.deliver(running)
            running = launched
            if running is not None and is_ready(running):
                self.batcher.deliver(running)
                running = None
            batch = launched = None  # nothing of a finished job stays alive while waiting

    def _read_mail(self, *, wait: bool) -> None:
        """Take what has come; wait for something to do if there is nothing."""
        while True:
            try:
                self._sort(self._mail.get_nowait())
            except Empty:
                if self._closed or not wait or self.batcher:
                    return
                self.batcher.drop()
                self.batcher.launched = None
                self._idle = True
                mail = self._mail.get()
                self._idle = False
                self._sort(mail)
                del mail

    def _sort(self, mail: _Mail) -> None:
        if isinstance(mail, Job):
            self.batcher.add(mail)
        elif mail is not None:
            self._room.free(*mail)

    def _abandon(self, error: BaseException) -> None:
        self._closed = True
        logger.error("The worker of a model stopped: the model is closed, and loads anew when asked.", exc_info=error)
        traceback.clear_frames(error.__traceback__)  # a caller who keeps it as a cause keeps no weights with it
        self._end(error)

    def _end(self, cause: BaseException | None = None) -> None:
        """Fail what is left, so that nobody waits for a worker that is gone."""
        self._room.close()
        reason = "" if cause is None else f": its worker stopped with {type(cause).__name__}: {cause}"
        for job in tuple(self._jobs):
            closed = ClosedError(f"The model was closed before this work was done{reason}. Load it again.")
            closed.__cause__ = cause
            self.batcher.fail(job, closed)
        self._forget()
        if not self.ended.done():
            self.ended.set_result(None)

    def _forget(self) -> None:
        """Keep nothing of a call: an error knows its frames, these their session, whose finalizer knows this model."""
        self._mail = SimpleQueue()
        self.batcher.forget()


_ALIVE: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    """Start anew in a forked child: the worker and the callers of the parent do not exist here."""
    for scheduler in list(_ALIVE):
        scheduler._reset(scheduler.batcher.engine)


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
