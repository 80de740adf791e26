"""What the scheduler drives, as protocols: any object that computes batches, real or fake."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from zh_retrieval.sequence import Tokens

if TYPE_CHECKING:
    import numpy as np


class Pending(Protocol):
    """Rows that a device may still be computing."""

    @property
    def ready(self) -> bool:
        """Return True if `result` would not wait."""
        ...

    def result(self) -> np.ndarray:
        """Return float32 (R, width), after waiting for the device if need be; raise what the device met."""
        ...


class Engine(Protocol):
    """Runs batches. One worker thread owns it, so nothing here needs to be thread-safe."""

    width: int

    @property
    def device(self) -> object:
        """Return where it computes, for messages."""
        ...

    @property
    def max_batch_tokens(self) -> int:
        """Return how many tokens a batch may have."""
        ...

    @property
    def dtype(self) -> object:
        """Return what it computes in, for messages."""
        ...

    def activate(self) -> AbstractContextManager[object]:
        """Return what the worker thread enters before its first batch and leaves after its last."""
        ...

    def is_fatal(self, error: BaseException) -> bool:
        """Return True if nothing can be computed any more after this error."""
        ...

    def launch(self, tokens: Sequence[Tokens]) -> Pending:
        """Start one batch; rows come in the order of `tokens`."""
        ...
