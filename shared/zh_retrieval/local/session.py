"""What an encoder and a reranker in this process have in common: a share of a loaded model, and calls on it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zh_retrieval.base import Model
from zh_retrieval.device import Device, DType
from zh_retrieval.errors import ClosedError, ConfigError, InputError
from zh_retrieval.local.call import Call, Limits
from zh_retrieval.local.inputs import frozen
from zh_retrieval.local.runner import CallRunner
from zh_retrieval.local.threads import tokenizers
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    from zh_retrieval.local.loaded import LoadedModel
    from zh_retrieval.tokenization.tokenizer import TextTokenizer

_INSTRUCTION = 10_000  # characters, which are put before each text of a call
_FEW, _SHORT = 64, 2**18  # inputs, and characters of them, that are checked on the event loop

_SIZES = (8, 16, 32, 64)  # tokens of a sequence that `warmup` computes in any case
_PATIENCE = 2.0  # seconds that it goes on with others

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
        self._device = Device(model.engine.device)
        self._dtype = DType(str(model.engine.dtype).removeprefix("torch."))
        self._width = model.engine.width
        self._model = model
        self._fingerprint: str | None = None
        self._overflow: Overflow = overflow
        self._limits = limits or Limits()
        self._release = weakref.finalize(self, model.release)
        self._release.atexit = False

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = results_hash(
                self.spec,
                weights=self.weights_digest(),
                dtype=self._dtype,
                quantization=self._model.quantization,
                max_length=self.max_length,
                overflow=self._overflow,
                dimension=self._width,
            )
        return self._fingerprint

    def weights_digest(self) -> str:
        """Return 16 hex digits of the content of every file that was loaded, whatever lies in their place now.

        Raises:
            CheckpointError: A file was written to after it was loaded.
            ClosedError: The model was closed.
        """
        self._check_open()
        return self._model.weights_digest()

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
        return self._model.scheduler.batcher.batches

    @property
    def batch_tokens(self) -> int:
        """Return how many tokens all these passes had."""
        return self._model.scheduler.batcher.tokens

    @property
    def launched(self) -> float | None:
        """Return when the last forward pass began, in seconds of `time.monotonic`; None while nothing is computed."""
        return self._model.scheduler.batcher.launched

    def limit_queue(self, tokens: int) -> None:
        """Let at most so many tokens wait for each priority, from the next call of this session on."""
        self._limits = replace(self._limits, queue=tokens)

    @property
    def device(self) -> Device:
        """Return where the model computes."""
        return self._device

    @property
    def dtype(self) -> DType:
        """Return what the model computes in; results are float32 always."""
        return self._dtype

    def warmup(self) -> None:
        """Compute made-up sequences, so that the first real call is not the slow one.

        A first call at a new size prepares kernels and memory, which can take a second. The sizes: 8 to 64 tokens, a
        full batch, and for two seconds more the lengths in between that a lone query is padded to.
        """
        self._check_open()
        targets = (0,) if self.spec.scoring == "query-likelihood" else ()
        budget = self._model.engine.max_batch_tokens
        full = budget // self.max_length * [self.max_length] or [budget]
        between = [[length] for length in range(4, 132, 4) if length not in _SIZES]
        end = None
        for number, lengths in enumerate([*([size] for size in _SIZES), full, *between]):
            if number > len(_SIZES):
                end = end or time.monotonic() + _PATIENCE
                if time.monotonic() > end:
                    break
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
        return f"{type(self).__name__}({self.spec.name!r}, device={str(self._device)!r}, dtype={str(self._dtype)!r})"

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
        with CallRunner(call, self._model.scheduler, self._limits, show_progress) as runner:
            runner.run()

    async def _arun(self, call: Call, show_progress: bool) -> None:
        self._check_open()
        with CallRunner(call, self._model.scheduler, self._limits, show_progress) as runner:
            await runner.arun()

    async def _amake(self, make: Callable[..., CallT], inputs: Any, *arguments: Any) -> CallT:
        """Return `make(inputs, *arguments)`, made in a thread if there is much to check."""
        inputs = frozen(inputs)
        if not isinstance(inputs, tuple) or (len(inputs) <= _FEW and _characters(inputs, *arguments) <= _SHORT):
            return make(inputs, *arguments)
        return await asyncio.get_running_loop().run_in_executor(tokenizers(), make, inputs, *arguments)


def _characters(*values: Any) -> int:
    """Return the characters of texts, and of those that tuples and lists hold; what else they hold is no text."""
    return sum(
        len(value) if isinstance(value, str) else _characters(*value) if isinstance(value, tuple | list) else 0
        for value in values
    )


def check_instruction(spec: ModelSpec, instruction: str | None) -> None:
    """Raise ConfigError if it is no text or the model takes none, InputError if it is no valid text, or a long one."""
    if instruction is not None and not isinstance(instruction, str):
        raise ConfigError(f"instruction is {type(instruction).__name__}, expected str or None.")
    if instruction and len(instruction) > _INSTRUCTION:
        raise InputError(
            f"instruction has {len(instruction)} characters, expected at most {_INSTRUCTION}: it is put before each "
            "text. Shorten it."
        )
    check_text(instruction or "", "instruction")
    spec.format_query("", instruction)  # refuses an instruction that the model cannot take
