"""The token budget of a forward pass: it shrinks when memory runs out, and grows again."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_LEAST_TOKENS = 1024  # a token budget does not shrink below this: smaller passes cost time and save little memory
_GOOD_PASSES = 64  # passes without trouble after which a smaller budget doubles


class Budget:
    """How many tokens a pass may have.

    Attributes:
        tokens: It halves when memory runs out, down to 1024 or the longest sequence, and doubles again, up to what it
            was, with every 64 passes that go well.
    """

    def __init__(self, tokens: int, device: str) -> None:
        self.tokens = tokens
        self._full = tokens
        self._device = device
        self._good_passes = 0

    def shrink(self, longest: int) -> None:
        """Take a pass for one that memory ran out for; its longest sequence had so many tokens."""
        self._good_passes = 0
        least = min(self._full, max(_LEAST_TOKENS, longest))
        budget = max(min(least, self.tokens), self.tokens // 2)
        if budget < self.tokens:
            logger.warning("%s ran out of memory: token budget is now %d", self._device, budget)
        self.tokens = budget

    def grow(self) -> None:
        """Take a pass for one that went well."""
        if self.tokens >= self._full:
            return
        self._good_passes += 1
        if self._good_passes >= _GOOD_PASSES:
            self._good_passes = 0
            self.tokens = min(self._full, 2 * self.tokens)
            logger.info("%s has memory again: token budget is now %d", self._device, self.tokens)
