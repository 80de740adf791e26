"""A bar over the inputs of a call. Only the caller's thread touches it, and it never stops the work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class Bar:
    """A tqdm bar, shown only when asked for; where standard error is gone, there is none."""

    def __init__(self, total: int, show: bool) -> None:
        self._total = total
        self.shown = show
        self._bar: Any = None

    def open(self) -> None:
        """Show it."""
        if self.shown:
            from tqdm import tqdm

            self._try(lambda: tqdm(total=self._total, unit="text"))

    def reach(self, place: int) -> None:
        """Move to the input `place`."""
        if self._bar is not None and place > self._bar.n:
            self._try(lambda: self._bar.update(place - self._bar.n))

    def close(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._try(self._bar.close)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            made = action()
        except Exception as error:  # whatever a stream that is gone raises
            logger.info("Progress is not shown any more: %s", error)
            if self._bar is not None:
                self._bar.disable = True
            self._bar, self.shown = None, False
        else:
            self._bar = self._bar or made
