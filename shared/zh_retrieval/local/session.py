"""What an encoder and a reranker in this process have in common: a share of a loaded model, and calls on it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zh_retrieval.base import Model
from zh_retrieval.errors import ClosedError, ConfigError
from zh_retrieval.local.call import Call, Flight, Limits, snapshot, tokenizers
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    import torch

    from zh_retrieval.local.sharing import LoadedModel
    from zh_retrieval.tokenization.tokenizer import TextTokenizer

_FEW = 64  # inputs that are checked on the event loop

CallT = TypeVar("CallT", bound=Call)


class Session(Model):
    """A share of a loaded model. `close()` or the last reference to the session gives the share back.

    Attributes:
        folder: Where the weights came from.
    """

    def __init__(
        self, model: LoadedModel, spec: ModelSpec, max_length: int, overflow: Overflow, limits: Limits | None = None
    ) -> None:
        self.spec = spec
        self.max_length = max_length
        self.folder: Path = model.folder
        self._device, self._dtype = str(model.engine.device), str(model.engine.dtype).removeprefix("torch.")
        self._width = model.engine.width
        self._model = model
        self._overflow: Overflow = overflow
        self._limits = limits or Limits()
        self._release = weakref.finalize(self, model.release)
        self._release.atexit = False

    @property
    def tokenizer(self) -> TextTokenizer:
        """Return vocabulary and special tokens, to read."""
        return self._model.tokenizer

    @property
    def waiting(self) -> int:
        """Return about how many tokens wait to be computed, for all sessions of these weights."""
        return self._model.scheduler.waiting

    @property
    def batches(self) -> int:
        """Return how many forward passes these weights made."""
        return self._model.scheduler.batches

    @property
    def batch_tokens(self) -> int:
        """Return how many tokens all these passes had."""
        return self._model.scheduler.batch_tokens

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        import torch

        return torch.device(self._device)

    @property
    def dtype(self) -> torch.dtype:
        """Return what the model computes in; results are float32 always."""
        import torch

        dtype: torch.dtype = getattr(torch, self._dtype)
        return dtype

    def warmup(self) -> None:
        """Compute made-up sequences of 8 tokens up to a full batch, so that the first real call is not the slow one.

        A first call at a new size prepares kernels and memory, which can take a second.
        """
        self._check_open()
        targets = (0,) if self.spec.scoring == "query-likelihood" else ()
        budget = self._model.engine.max_batch_tokens
        full = budget // self.max_length * [self.max_length] or [budget]
        for lengths in ([8], [16], [32], [64], full):
            made_up = [Tokens([0] * min(length, self.max_length), targets=targets) for length in lengths]
            self._model.scheduler.submit(made_up, "interactive").result()

    @property
    def closed(self) -> bool:
        """Return True after `close()`, after `close_all()`, and after a fault that stopped the model."""
        return not self._release.alive or self._model.scheduler.closed

    def close(self) -> None:
        """Give the share back; the last one frees the weights, when the batch that runs has ended.

        Closing twice does nothing. Calls of this session that wait in other threads end with ClosedError if it was the
        last share.
        """
        if self._release.detach() is not None:
            self._model.close_share()

    async def aclose(self) -> None:
        """Give the share back, and wait until the weights are free if it was the last one."""
        self.close()
        if self._model.scheduler.closed:
            await asyncio.wrap_future(self._model.scheduler.ended)

    def __repr__(self) -> str:
        """Return the model, where it computes and in what."""
        return f"{type(self).__name__}({self.spec.name!r}, device={self._device!r}, dtype={self._dtype!r})"

    def __reduce__(self) -> Any:
        """Refuse: weights do not travel between processes."""
        raise TypeError(
            f"A {type(self).__name__} holds weights and cannot be pickled or copied. Send its name and options, load "
            "it there, or send an adapter (ModelScopeEmbeddings, ...), which travels as its settings."
        )

    def _check_open(self) -> None:
        if not self._release.alive:
            raise ClosedError(f"This {type(self).__name__} was closed. Load {self.spec.name} again.")

    def _run(self, call: Call, show_progress: bool) -> None:
        self._check_open()
        with Flight(call, self._model.scheduler, self._limits, show_progress) as flight:
            flight.run()

    async def _arun(self, call: Call, show_progress: bool) -> None:
        self._check_open()
        with Flight(call, self._model.scheduler, self._limits, show_progress) as flight:
            await flight.arun()

    async def _amake(self, make: Callable[..., CallT], inputs: Any, *arguments: Any) -> CallT:
        """Return `make(inputs, *arguments)`, made in a thread if there are many inputs to check."""
        inputs = snapshot(inputs)
        if not isinstance(inputs, tuple) or len(inputs) <= _FEW:
            return make(inputs, *arguments)
        return await asyncio.get_running_loop().run_in_executor(tokenizers(), make, inputs, *arguments)


def check_instruction(spec: ModelSpec, instruction: str | None) -> None:
    """Raise ConfigError if it is no text or the model takes none, InputError if it is no valid text."""
    if instruction is not None and not isinstance(instruction, str):
        raise ConfigError(f"instruction is {type(instruction).__name__}, expected str or None.")
    check_text(instruction or "", "instruction")
    spec.format_query("", instruction)  # refuses an instruction that the model cannot take
