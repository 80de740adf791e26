"""Whether a model goes on computing, and how quickly: what says how long a request would wait, and when one is lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from zh_retrieval.server.http.problems import RequestError

ResultT = TypeVar("ResultT")

_LONGEST_WAIT = 60  # seconds that a refused client is told to wait at most
_WEIGHT = 0.3  # of the newest measurement in the rate
_LEAST_TIME = 0.2  # seconds over which a rate is measured at least
_DEAD = 5  # times `stuck_after`, when the process had better be started anew
_SLOWEST = 10  # times as long as the full batches of the warm-up took, a pass may take in any case


class Watch:
    """The calls of one model that are under way. Used in the event loop only.

    Args:
        name: What messages call the model.
        stuck_after: Seconds that one forward pass may take.

    Attributes:
        handle: What computes; None until it is loaded.
        rate: Tokens that it computes a second, measured while more waited; None until that was so.
        stuck: Whether the pass under way takes longer than it may.
    """

    def __init__(self, name: str, stuck_after: float) -> None:
        self.name = name
        self.handle: Any = None
        self.rate: float | None = None
        self.stuck = False
        self._stuck_after = stuck_after
        self._calls: dict[asyncio.Task[Any], float] = {}
        self._given_up: set[asyncio.Task[Any]] = set()
        self._mark: tuple[float, int] | None = None

    def loaded(self, handle: Any, warmup: float) -> None:
        """Take a model that was loaded, and whose warm-up took so many seconds."""
        self.handle = handle
        self._mark = None
        self._stuck_after = max(self._stuck_after, _SLOWEST * warmup)

    async def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Return what work gives.

        Raises:
            RequestError: 503, the model is stuck, or gets stuck.
        """
        if self.stuck:
            work.close()
            raise self._no_hope()
        task = asyncio.ensure_future(work)
        self._calls[task] = time.monotonic()
        try:
            return await task
        except asyncio.CancelledError:
            if task in self._given_up:
                raise self._no_hope() from None
            raise
        finally:
            del self._calls[task]
            self._given_up.discard(task)

    def look(self) -> None:
        """Measure, and give up what waits for a pass that does not end. To be called every now and then."""
        now = time.monotonic()
        self._measure(now)
        self.stuck = self.computing(now) > self._stuck_after
        if self.stuck:
            for task in self._calls:
                if task not in self._given_up:
                    self._given_up.add(task)
                    task.cancel()

    def computing(self, now: float) -> float:
        """Return for how many seconds the pass under way, or the oldest call of a handle that knows none, has run."""
        oldest = min(self._calls.values(), default=None)
        since: float | None = getattr(self.handle, "launched", oldest)
        return 0.0 if since is None else now - since

    @property
    def dead(self) -> bool:
        """Return True if nothing is to be hoped for any more."""
        return self.computing(time.monotonic()) > _DEAD * self._stuck_after

    @property
    def reason(self) -> str | None:
        """Return why the model is not ready; None for nothing."""
        if not self.stuck:
            return None
        return f"{self.name} has been at one forward pass for {self.computing(time.monotonic()):.0f} s."

    @property
    def wait(self) -> float:
        """Return how many seconds what waits now takes, as far as that is known."""
        return self._number("waiting") / self.rate if self.rate else 0.0

    def _no_hope(self) -> RequestError:
        return RequestError(
            503, f"{self.name} does not come back from a forward pass. Ask another server.", "not_ready"
        )

    def _measure(self, now: float) -> None:
        """Measure the rate over times in which more always waited: else it is the clients' rate."""
        if not self._number("waiting"):
            self._mark = None
            return
        tokens = self._number("batch_tokens")
        if self._mark is None:
            self._mark = now, tokens
            return
        since, before = self._mark
        if now - since >= _LEAST_TIME and tokens > before:
            found = (tokens - before) / (now - since)
            self.rate = found if self.rate is None else (1 - _WEIGHT) * self.rate + _WEIGHT * found
            self._mark = now, tokens

    def _number(self, what: str) -> int:
        try:
            return int(getattr(self.handle, what, 0))
        except Exception:  # closed
            return 0


def retry_after(seconds: float) -> int:
    """Return what a refused client is told: whole seconds, 1 to 60."""
    return max(1, min(_LONGEST_WAIT, math.ceil(seconds)))
