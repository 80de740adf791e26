"""How fast an engine computes, learnt while it does, and how long a pass may take while somebody asks.

A pass that runs is not interrupted, so a question waits for it: its length is what decides.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

_REMEMBERED = 9  # passes whose median is the rate: one that met a new shape or a busy machine changes nothing
_FEW = 64  # tokens; a pass of fewer costs the reading of the weights, and says little about the rate
_GUESS = 2000.0  # tokens/s before anything is measured
_SLOWEST, _FASTEST = 0.1, 1e9  # tokens/s that are believed
_SHORTEST, _LONGEST, _MOST = 0.05, 0.1, 5.0  # seconds of a pass while somebody asks; the last one for slow models
_QUESTION = 256  # tokens; a call of so few is a question, however slow the model
_LITTLE = 2.0  # seconds of work that somebody may wait for
_ASKING = 5.0  # seconds after a question that met other work, in which more are expected; at least ten such passes


class Pace:
    """What decides by time: which calls are small, and how many tokens a pass has. The worker alone tells it.

    Attributes:
        rate: Tokens per second of passes, bounded: the median of the last 9 of at least 64 tokens.
        seconds: How long a pass may take while somebody asks: 0.05 to 0.1, four times the quickest question of late;
            twice that one where the weights alone take longer to read, as a 7B model's do on a CPU; at most 5.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet; `clock` returns seconds."""
        self.clock = clock
        self.rate = _GUESS
        self.seconds = _LONGEST
        self._rates: deque[float] = deque(maxlen=_REMEMBERED)
        self._small_rates: deque[float] = deque(maxlen=_REMEMBERED)
        self._questions: deque[float] = deque(maxlen=2 * _REMEMBERED)  # seconds
        self._until = float("-inf")

    def computed(self, tokens: int, seconds: float, question: bool) -> None:
        """Take a pass for one that took so long; `question`: of questions only."""
        rate = min(_FASTEST, max(_SLOWEST, tokens / max(seconds, 1e-9)))
        (self._rates if tokens >= _FEW else self._small_rates).append(rate)
        self.rate = median(self._rates) if self._rates else max(self._small_rates)
        if question:
            self._questions.append(seconds)
            alone = min(self._questions)
            self.seconds = min(_MOST, max(_SHORTEST, min(_LONGEST, 4 * alone), 2 * alone))

    def takes(self, tokens: int) -> float:
        """Return about how many seconds the engine computes so many tokens."""
        return tokens / self.rate

    def is_question(self, tokens: int) -> bool:
        """Return True if so many tokens take no longer than a pass may while somebody asks, or are at most 256."""
        return tokens <= _QUESTION or self.takes(tokens) <= self.seconds

    def is_little(self, tokens: int) -> bool:
        """Return True if so many tokens take at most 2 seconds, or are a question."""
        return self.is_question(tokens) or self.takes(tokens) <= _LITTLE

    def asked(self) -> None:
        """Expect more questions for 5 seconds or ten short passes: one came while there was other work."""
        self._until = self.clock() + max(_ASKING, 10 * self.seconds)

    def budget(self, most: int) -> int:
        """Return how many tokens a pass of other work than questions may have: `most` if nobody asks.

        Else what takes about `seconds`, as 1 or 1.5 times a power of two, so that batches keep to few shapes.
        """
        if self.clock() >= self._until:
            return most
        return min(most, max(_FEW, _rounded(self.rate * self.seconds)))


def _rounded(tokens: float) -> int:
    """Return the nearest of 1, 1.5, 2, 3, 4, 6, 8, ..., as whole number."""
    power = 1 << (max(1, int(tokens)).bit_length() - 1)
    return min((power, power + power // 2, 2 * power), key=lambda size: abs(size - tokens))
