"""Jobs that wait, and the turns that their calls take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from itertools import accumulate
from typing import Literal, get_args

import numpy as np

from zh_retrieval.sequence import Tokens, by_length

Priority = Literal["interactive", "bulk"]
"""Interactive: somebody waits, and it takes little time. Bulk: everything else."""


class Job:
    """Sequences that are computed for one call, and the future of their float32 (R, width) rows in the call's order.

    Attributes:
        tokens: The sequences, at least one.
        priority: Which queue they wait in.
        call: What takes turns: jobs of one call follow each other.
        reserved: Tokens of room that were reserved in the queue.
        lengths: Tokens of each sequence.
        order: Indices of the sequences, longest first.
        taken: How many of `order` are part of a batch.
        done: How many sequences are computed; other threads may read it to show progress.
        waited: Seconds until its first sequence was part of a batch; None: none was yet.
        future: The rows, or what went wrong.
    """

    __slots__ = (
        "_came",
        "_rows",
        "_unsettled",
        "call",
        "done",
        "future",
        "lengths",
        "order",
        "priority",
        "reserved",
        "starts",
        "taken",
        "tokens",
        "waited",
    )

    def __init__(
        self, tokens: Sequence[Tokens], priority: Priority = "bulk", call: Hashable = None, reserved: int = 0
    ) -> None:
        if not tokens:
            raise ValueError("There is nothing to compute: tokens is empty.")
        if priority not in get_args(Priority):
            raise ValueError(f"priority={priority!r} is unknown. Use one of {', '.join(get_args(Priority))}.")
        self.tokens = tokens
        self.priority: Priority = priority
        self.call: Hashable = self if call is None else call
        self.reserved = reserved
        self.lengths = [len(item.ids) for item in tokens]
        self.order = by_length(self.lengths) if len(tokens) > 1 else [0]
        self.taken = 0
        self.done = 0
        self._came = time.monotonic()
        self.waited: float | None = None
        self.future: Future[np.ndarray] = Future()
        self.starts = list(accumulate((item.rows for item in tokens), initial=0))
        self._rows: np.ndarray | None = None
        self._unsettled = [True]

    @property
    def waits(self) -> bool:
        """Return True if some sequence is not yet part of a batch."""
        return self.taken < len(self.order)

    def take(self, least: int, most: int) -> list[int]:
        """Return the next indices: as few as hold `least` tokens, as many as fit into `most`, one in any case."""
        if self.waited is None:
            self.waited = time.monotonic() - self._came
        low, used = self.taken, 0
        while self.taken < len(self.order) and used < least:
            length = self.lengths[self.order[self.taken]]
            if used + length > most and self.taken > low:
                break
            used += length
            self.taken += 1
        return self.order[low : self.taken]

    def accept(self, indices: Sequence[int], rows: np.ndarray) -> None:
        """Put the rows of some sequences in their places; the last ones complete the future."""
        if self._rows is None:
            self._rows = np.empty((self.starts[-1], rows.shape[1]), dtype=np.float32)
        low = 0
        for index in indices:
            start, end = self.starts[index], self.starts[index + 1]
            self._rows[start:end] = rows[low : low + end - start]
            low += end - start
        self.done += len(indices)
        if self.done == len(self.tokens) and self._settles():
            self.future.set_result(self._rows)

    def fail(self, error: BaseException) -> None:
        """Give the error to whoever waits, unless there is a result or nobody waits."""
        if self._settles():
            self.future.set_exception(error)

    def drop(self) -> None:
        """Tell whoever waits for a cancelled future that it is cancelled."""
        if self.future.cancelled():
            self._settles()

    def _settles(self) -> bool:
        """Return True once, to the first who asks, unless the future was cancelled."""
        try:
            self._unsettled.pop()  # one step: a worker that ends and a caller that closes may meet here
        except IndexError:
            return False
        return self.future.set_running_or_notify_cancel()


Share = tuple[Job, list[int]]
"""The indices of a job that are part of a batch."""


class Turns:
    """The jobs of one priority. A batch has a fair share of every call: none waits for the end of another.

    Jobs whose future is done (cancelled, failed) are passed over and given to `dropped`.
    """

    def __init__(self) -> None:
        self._calls: deque[Hashable] = deque()
        self._jobs: dict[Hashable, deque[Job]] = {}
        self.dropped: list[Job] = []

    def add(self, job: Job) -> None:
        """Let a job wait behind those of its call."""
        if job.call not in self._jobs:
            self._jobs[job.call] = deque()
            self._calls.append(job.call)
        self._jobs[job.call].append(job)

    def __bool__(self) -> bool:
        """Return True if a job waits whose future is not done."""
        while self._calls:
            if self._front(self._calls[0]) is not None:
                return True
            self._calls.popleft()
        return False

    def take(self, budget: int) -> list[Share]:
        """Return what the next batch computes: at most `budget` tokens, or one longer sequence.

        Every waiting call gets an equal part of the budget, at least one sequence, in turn; what is then left goes to
        the first calls. A call that found no room is the first next time.
        """
        shares: list[Share] = []
        passed: list[Hashable] = []
        served: list[Hashable] = []
        left, waiting = budget, len(self._calls)
        while self._calls and (left > 0 or not shares):
            call = self._calls.popleft()
            used = self._serve(call, max(1, left // max(1, waiting)), left, shares)
            waiting -= 1
            left -= used
            if call in self._jobs:
                (served if used else passed).append(call)
        for call in served:
            if left <= 0:
                break
            left -= self._serve(call, left, left, shares)
        self._calls.extendleft(reversed(passed))
        self._calls.extend(call for call in served if call in self._jobs)
        return shares

    def _serve(self, call: Hashable, least: int, room: int, shares: list[Share]) -> int:
        """Add a call's next sequences to the shares, and return how many tokens they have."""
        used = 0
        while used < least and (job := self._front(call)) is not None:
            first = job.lengths[job.order[job.taken]]
            if used + first > room and shares:
                break
            indices = job.take(least - used, room - used)
            shares.append((job, indices))
            used += sum(job.lengths[index] for index in indices)
            if not job.waits:
                self._pop(call)
        return used

    def _front(self, call: Hashable) -> Job | None:
        """Return the first job of a call that somebody still waits for."""
        while jobs := self._jobs.get(call):
            if not jobs[0].future.done():
                return jobs[0]
            self.dropped.append(jobs[0])
            self._pop(call)
        return None

    def _pop(self, call: Hashable) -> None:
        self._jobs[call].popleft()
        if not self._jobs[call]:
            del self._jobs[call]
