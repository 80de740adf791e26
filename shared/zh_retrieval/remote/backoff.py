"""How long to wait before a request is tried again: longer each time, whatever the server says."""

from __future__ import annotations

import email.utils
import math
import random
import time

_FIRST = 0.2  # seconds
_LONGEST = 30.0  # seconds


class Backoff:
    """The pauses of one request, in seconds."""

    def __init__(self) -> None:
        self._pause = _FIRST

    def after(self, asked: float | None) -> float:
        """Return the next pause: at least half of twice the last one, and at least what the server asks for."""
        own = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _LONGEST)
        return max(own, asked or 0.0)


def retry_after(header: str) -> float | None:
    """Return the seconds of a `Retry-After` header, a number or a date; None for the past, nonsense and nothing."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, OSError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
