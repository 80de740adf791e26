"""What an encoder and a reranker have in common: a lease on a loaded model, and calls cut into windows."""

from __future__ import annotations

import asyncio
import logging
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from zh_retrieval.base import Model
from zh_retrieval.engine.scheduler import Priority
from zh_retrieval.errors import ClosedError, ConfigError, InputError
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    from zh_retrieval.local.sharing import LoadedModel

logger = logging.getLogger(__name__)

_WINDOW = 2048  # inputs that are tokenized and sorted together
_FLYING = 2  # windows under way at once: one is computed while the next is tokenized
_INTERACTIVE = 64  # a call of at most so many queries or pairs goes ahead of bulk work
_INLINE_CHARACTERS = 4096  # less text than this is tokenized on the event loop: quicker than a thread

ItemT = TypeVar("ItemT", bound=Hashable)


class Work(ABC):
    """One call: `count` inputs, made into sequences window by window, and what becomes of their rows."""

    count: int

    @abstractmethod
    def prepare(self, low: int, high: int) -> list[Tokens]:
        """Return the sequences of inputs low to high."""

    @abstractmethod
    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        """Take float32 (R, width), the rows of `prepare(low, high)`."""

    @abstractmethod
    def characters(self) -> int:
        """Return the length of the whole input in characters, or at least whether it is small."""


WorkT = TypeVar("WorkT", bound=Work)


class Session(Model):
    """A lease on a loaded model. Any thread may use it; `close()` or the last reference gives the lease back.

    Attributes:
        spec: The recipe.
        max_length: Tokens of one sequence, special tokens included.
    """

    def __init__(self, model: LoadedModel, spec: ModelSpec, max_length: int, overflow: Overflow) -> None:
        self.spec = spec
        self.max_length = max_length
        self._model = model
        self._overflow: Overflow = overflow
        self._release = weakref.finalize(self, model.release)
        self._release.atexit = False

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        return self._model.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """Return what the model computes in; results are float32 always."""
        return self._model.engine.dtype

    @property
    def folder(self) -> Path:
        """Return where the weights came from."""
        return self._model.folder

    def warmup(self) -> None:
        """Compute made-up sequences of 8 tokens up to a full batch, so that the first real call is not the slow one.

        A first call at a new size prepares kernels and memory, which can take a second.
        """
        targets = (0,) if self.spec.scoring == "query-likelihood" else ()
        full = self._model.engine.max_batch_tokens // self.max_length * [self.max_length]
        for lengths in ([8], [16], [32], [64], full or [self.max_length]):
            made_up = [Tokens([0] * min(length, self.max_length), targets=targets) for length in lengths]
            self._model.scheduler.submit(made_up, "query").result()

    @property
    def closed(self) -> bool:
        """Return True after `close()`, and after `close_all()` freed the model."""
        return not self._release.alive or self._model.scheduler.closed

    def close(self) -> None:
        """Give the lease back; closing twice does nothing."""
        self._release()

    def __repr__(self) -> str:
        """Return the model, where it computes and in what."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.spec.name!r}, device={str(self.device)!r}, dtype={dtype!r})"

    def _submit(self, work: Work, low: int, priority: Priority, bar: _Bar) -> tuple[int, int, Future[np.ndarray]]:
        if not self._release.alive:
            raise ClosedError(f"This {type(self).__name__} was closed. Load {self.spec.name} again.")
        high = min(low + _WINDOW, work.count)
        on_rows = partial(bar.reach, low, high) if bar.shown else None
        return low, high, self._model.scheduler.submit(work.prepare(low, high), priority, on_rows)

    def _run(self, work: Work, priority: Priority, show_progress: bool) -> None:
        flying: deque[tuple[int, int, Future[np.ndarray]]] = deque()
        with _Bar(work.count, show_progress) as bar:
            try:
                for low in range(0, work.count, _WINDOW):
                    flying.append(self._submit(work, low, priority, bar))
                    while len(flying) >= _FLYING:
                        first, last, future = flying[0]
                        work.finish(first, last, future.result())
                        flying.popleft()
                for first, last, future in flying:
                    work.finish(first, last, future.result())
            finally:
                for _, _, future in flying:
                    future.cancel()

    async def _aprepare(self, inputs: Any, make: Callable[..., WorkT], *arguments: Any) -> WorkT:
        """Return `make(inputs, *arguments)`, made in a thread if there are many inputs to check."""
        if not isinstance(inputs, Sequence) or len(inputs) <= _INTERACTIVE:
            return make(inputs, *arguments)
        return await asyncio.to_thread(make, inputs, *arguments)

    async def _arun(self, work: Work, priority: Priority, show_progress: bool) -> None:
        flying: deque[tuple[int, int, Future[np.ndarray]]] = deque()
        inline = work.count <= _INTERACTIVE and work.characters() <= _INLINE_CHARACTERS
        with _Bar(work.count, show_progress) as bar:
            try:
                for low in range(0, work.count, _WINDOW):
                    if inline:
                        flying.append(self._submit(work, low, priority, bar))
                    else:
                        flying.append(await asyncio.to_thread(self._submit, work, low, priority, bar))
                    while len(flying) >= _FLYING:
                        first, last, future = flying[0]
                        work.finish(first, last, await asyncio.wrap_future(future))
                        flying.popleft()
                for first, last, future in flying:
                    work.finish(first, last, await asyncio.wrap_future(future))
            finally:
                for _, _, future in flying:
                    future.cancel()

    def _priority(self, work: Work, interactive: bool = True) -> Priority:
        return "query" if interactive and work.count <= _INTERACTIVE else "bulk"


def distinct(items: Sequence[ItemT]) -> tuple[list[ItemT], list[int]]:
    """Return the different items, and the place among them of each input.

    Equal inputs are computed once: quicker, and their results are equal to the last bit, so that ties are ties.
    """
    places: dict[ItemT, int] = {}
    found = [places.setdefault(item, len(places)) for item in items]
    return list(places), found


def check_instruction(spec: ModelSpec, instruction: str | None) -> None:
    """Raise ConfigError if it is no text or the model takes none, InputError if it is no valid text."""
    if instruction is not None and not isinstance(instruction, str):
        raise ConfigError(f"instruction is {type(instruction).__name__}, expected str or None.")
    check_text(instruction or "", "instruction")
    spec.format_query("", instruction)  # refuses an instruction that the model cannot take


class Truncation:
    """Counts what a call cuts, or refuses it."""

    def __init__(self, overflow: Overflow, max_length: int, what: str) -> None:
        self._overflow = overflow
        self._max_length = max_length
        self._what = what
        self._cut = 0
        self._longest = 0

    def note(self, index: int, length: int) -> None:
        """Record that input `index` has `length` tokens, more than `max_length`.

        Raises:
            InputError: overflow is "error".
        """
        if self._overflow == "error":
            raise InputError(
                f"{self._what}[{index}] has {length} tokens, expected at most {self._max_length}. "
                "Shorten it, or use overflow='truncate'."
            )
        self._cut += 1
        self._longest = max(self._longest, length)

    def report(self, count: int) -> None:
        """Log one warning if anything was cut."""
        if self._cut:
            logger.warning(
                "%d of %d %s were cut to %d tokens (the longest has %d). Split them, or use overflow='error'.",
                self._cut, count, self._what, self._max_length, self._longest,
            )  # fmt: skip


class _Bar:
    """A tqdm bar over the inputs of a call, shown only when asked for."""

    def __init__(self, total: int, show: bool) -> None:
        self._total = total
        self.shown = show
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        if self.shown:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="text")
        return self

    def reach(self, low: int, high: int, done: int, total: int) -> None:
        """Move to the part `done` of `total` between the inputs low and high."""
        place = low + (high - low) * done // total
        if place > self._bar.n:
            self._bar.update(place - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
