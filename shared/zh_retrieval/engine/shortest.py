"""Small calls, the shortest first, and none of them overtaken for long."""

from __future__ import annotations

import heapq
from itertools import count

from zh_retrieval.engine.pace import Pace
from zh_retrieval.engine.turns import Job, Share

_PATIENCE = 4.0  # times the seconds of a call in which shorter ones go ahead of it


class Shortest:
    """Jobs that somebody waits for, in the order of when they came plus four times the seconds that they take.

    So a job is overtaken by shorter ones that come within that time, and by none that comes later. Jobs whose future
    is done (cancelled, failed) are passed over and given to `dropped`.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self.dropped: list[Job] = []

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        key = self._pace.clock() + _PATIENCE * self._pace.takes(sum(job.lengths))
        heapq.heappush(self._heap, (key, next(self._numbers), job))

    def __bool__(self) -> bool:
        """Return True if a job waits whose future is not done."""
        while self._heap and self._heap[0][2].future.done():
            self.dropped.append(heapq.heappop(self._heap)[2])
        return bool(self._heap)

    def take(self, budget: int) -> list[Share]:
        """Return what the next batch computes: at most `budget` tokens, or one longer sequence."""
        shares: list[Share] = []
        left = budget
        while self and left > 0:
            job = self._heap[0][2]
            if shares and job.lengths[job.order[job.taken]] > left:
                break
            indices = job.take(left, left)
            shares.append((job, indices))
            left -= sum(job.lengths[index] for index in indices)
            if job.waits:
                break
            heapq.heappop(self._heap)
        return shares
