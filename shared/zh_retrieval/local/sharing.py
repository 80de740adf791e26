"""Weights on a device with their worker, counted by the handles that use them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.torch_engine import Engine
from zh_retrieval.tokenization.tokenizer import TextTokenizer


@dataclass(eq=False)
class LoadedModel:
    """One loaded model; `lease` for each handle, `release` when it goes.

    Attributes:
        folder: Where the weights came from.
        engine: Runs batches.
        scheduler: Merges the calls of all handles.
        tokenizer: Vocabulary and special tokens.
        length_limit: The most tokens of one sequence.
        forget: Called when the last lease is given back, before the worker stops.
    """

    folder: Path
    engine: Engine
    scheduler: Scheduler
    tokenizer: TextTokenizer
    length_limit: int
    forget: Callable[[LoadedModel], None]
    _leases: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)  # a handle may be collected while it is held

    def lease(self) -> bool:
        """Count one more handle; False if the model was already given up."""
        with self._lock:
            if self._leases < 0:
                return False
            self._leases += 1
            return True

    def release(self) -> None:
        """Count one handle less; the last one stops the worker, and the weights go with the references to them."""
        with self._lock:
            self._leases -= 1
            if self._leases > 0:
                return
            self._leases = -1
        self.forget(self)
        self.scheduler.close()
