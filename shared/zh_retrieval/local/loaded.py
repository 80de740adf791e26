"""A loaded model: weights and their worker, counted by who uses them."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from zh_retrieval import process
from zh_retrieval.checkpoint.fingerprint import ModelFiles
from zh_retrieval.engine.base import Engine
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.errors import ClosedError
from zh_retrieval.tokenization.tokenizer import TextTokenizer

LOCK = process.held_over_fork(threading.RLock())
"""Held while shares are counted and models found. A session may be collected while its thread holds this."""

SHARED: dict[Hashable, LoadedModel] = {}
"""The models that may be shared, by what makes them equal."""


class LoadedModel:
    """Weights on a device with their worker; `share` for each session, `release` when it goes.

    Attributes:
        folder: Where the weights came from.
        quantization: How its weights were rounded, by whichever option.
        scheduler: Merges the calls of all sessions.
        length_limit: The most tokens of one sequence.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        tokenizer: TextTokenizer,
        length_limit: int,
        key: Hashable = None,
        files: ModelFiles | None = None,
        quantization: Any = None,
    ) -> None:
        self.folder = folder
        self.quantization = quantization
        self.scheduler = Scheduler(engine)
        self.length_limit = length_limit
        self._parts: tuple[Engine, TextTokenizer] | None = engine, tokenizer
        self._key = key
        self._files = files
        self._shares = 0

    @property
    def engine(self) -> Engine:
        """Return what runs batches.

        Raises:
            ClosedError: The weights are free.
        """
        return self._open()[0]

    @property
    def tokenizer(self) -> TextTokenizer:
        """Return vocabulary and special tokens; raises as `engine`."""
        return self._open()[1]

    def weights_digest(self) -> str:
        """Return 16 hex digits of what was loaded, as `ModelFiles.digest`; "" where the files are not known.

        Raises:
            CheckpointError: A file was written to after it was loaded.
            ClosedError: The weights are free.
        """
        files = self._files
        self._open()
        return files.digest() if files is not None else ""

    def sparse_digest(self) -> str:
        """Return 16 hex digits of the weights of the sparse side; raises ClosedError."""
        files = self._files
        self._open()
        return files.sparse_digest() if files is not None else ""

    def _open(self) -> tuple[Engine, TextTokenizer]:
        if (parts := self._parts) is None:
            raise ClosedError("The model was closed. Load it again.")
        return parts

    def share(self) -> bool:
        """Count one more session; False if the model was given up meanwhile."""
        with LOCK:
            if self.scheduler.closed:
                return False
            self._shares += 1
            return True

    def release(self) -> None:
        """Count one session less; the last one frees the weights. Made for finalizers: nothing is waited for."""
        if self._given_up():
            self.scheduler.retire()

    def close_share(self) -> None:
        """Count one session less; the last one fails what waits in other threads, and frees the weights."""
        if self._given_up():
            self.close()

    def close(self) -> None:
        """Free the weights; what waits fails with ClosedError."""
        self._forget()
        self.scheduler.close()

    def _given_up(self) -> bool:
        with LOCK:
            self._shares -= 1
            if self._shares > 0:
                return False
            self._forget()
            return True

    def _forget(self) -> None:
        with LOCK:
            self._parts = self._files = None
            if SHARED.get(self._key) is self:
                del SHARED[self._key]
