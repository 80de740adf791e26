"""Room in the queue: how many tokens may wait, counted for each priority before anything is tokenized."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from zh_retrieval.engine.turns import Priority
from zh_retrieval.errors import ClosedError, OverloadedError

DEFAULT_LIMIT = 1_000_000
"""Waiting tokens of one priority; a token that waits takes about 36 bytes."""


class Room:
    """Counts the tokens that wait, and lets callers wait for room in the order in which they came.

    A garbage collection may run anywhere and close a model, so `close` takes no lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for arithmetic only
        self._tokens: dict[Priority, int] = {"interactive": 0, "bulk": 0}
        self._waiting: dict[Priority, deque[tuple[int, int, Future[None]]]] = {"interactive": deque(), "bulk": deque()}
        self._closed = False

    def tokens(self, priority: Priority) -> int:
        """Return how many tokens wait."""
        return self._tokens[priority]

    def reserve(self, priority: Priority, tokens: int, limit: int | None, refuse: bool) -> Future[None] | None:
        """Count `tokens` as waiting: None if there is room, else the future of it.

        More tokens than the limit have room when nothing else waits. A future that is cancelled counts nothing.

        Raises:
            OverloadedError: There is no room, and `refuse` is true.
        """
        limit = limit or DEFAULT_LIMIT
        room: Future[None] = Future()
        with self._lock:
            if not self._waiting[priority] and self._fits(priority, tokens, limit):
                self._tokens[priority] += tokens
                return None
            if refuse:
                raise OverloadedError(
                    f"{self._tokens[priority]} tokens wait already, {tokens} more would exceed the limit of {limit}. "
                    "Try again later, or raise max_queue_tokens."
                )
            self._waiting[priority].append((tokens, limit, room))
        if self._closed:
            self.close()
        return room

    def _fits(self, priority: Priority, tokens: int, limit: int) -> bool:
        return self._tokens[priority] == 0 or self._tokens[priority] + tokens <= limit

    def free(self, priority: Priority, tokens: int) -> None:
        """Count `tokens` as not waiting any more, and let in those whose turn it is."""
        with self._lock:
            self._tokens[priority] -= tokens
        while (room := self._next(priority)) is not None:
            tokens, future = room
            if future.set_running_or_notify_cancel():
                future.set_result(None)
            else:
                with self._lock:
                    self._tokens[priority] -= tokens

    def _next(self, priority: Priority) -> tuple[int, Future[None]] | None:
        with self._lock:
            waiting = self._waiting[priority]
            while waiting and waiting[0][2].cancelled():
                waiting.popleft()
            if not waiting or not self._fits(priority, waiting[0][0], waiting[0][1]):
                return None
            tokens, _, future = waiting.popleft()
            self._tokens[priority] += tokens
            return tokens, future

    def close(self) -> None:
        """Fail those who wait for room, now and later, with ClosedError."""
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                try:
                    future = waiting.popleft()[2]
                except IndexError:  # another thread was quicker
                    break
                if future.set_running_or_notify_cancel():
                    future.set_exception(ClosedError("The model was closed before this work was done."))
