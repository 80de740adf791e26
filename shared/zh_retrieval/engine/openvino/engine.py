"""A graph that OpenVINO runs on the CPU, as the scheduler drives it.

Axes: B sequences of a batch, L tokens of the longest, R result rows.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import openvino as ov

from zh_retrieval import process
from zh_retrieval.engine.budget import Budget
from zh_retrieval.engine.openvino.buckets import buckets
from zh_retrieval.engine.openvino.readouts import Readout
from zh_retrieval.errors import DeviceMemoryError
from zh_retrieval.layers.memory import is_out_of_memory, release_frames
from zh_retrieval.sequence import Tokens


class Elsewhere(Protocol):
    """What computes sequences that are too long for a graph's memory."""

    @property
    def above(self) -> int:
        """Return how many tokens the graph takes."""
        ...

    def run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return float32 (R, width), rows in the order of `tokens`."""
        ...

    def renew(self) -> None:
        """Do what `OpenVinoEngine.renew` does."""
        ...


MoreInputs = Callable[[Sequence[Tokens], int], Sequence[np.ndarray]]
"""The sequences of a batch and the length of the longest to arrays."""


def capabilities() -> list[str]:
    """Return what OpenVINO's CPU plugin says that this CPU computes in: "FP32", "BF16", "INT8", ..."""
    found: list[str] = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """How OpenVINO computes.

    Attributes:
        bfloat16: Multiply in bfloat16; sums, norms and what goes on between layers stay float32.
        threads: How many threads compute, the worker's own included.
        group: Activations are rounded to int8, so many numbers together; 0: they are not.
    """

    bfloat16: bool
    threads: int
    group: int = 0

    def properties(self) -> dict[str, Any]:
        """Return the properties that OpenVINO's CPU plugin takes."""
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "ENABLE_CPU_PINNING": False,  # cores belong to the whole process
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.group,
        }


def compiled(model: ov.Model, settings: Settings) -> Any:
    """Return what a graph is computed by: an inference request of OpenVINO's, of one thread at a time."""
    return ov.Core().compile_model(model, "CPU", settings.properties()).create_infer_request()


@dataclass(slots=True)
class Done:
    """Rows that are computed."""

    rows: np.ndarray
    ready: bool = True

    def result(self) -> np.ndarray:
        """Return float32 (R, width)."""
        return self.rows


class OpenVinoEngine:
    """Runs batches on the CPU. Not thread-safe: one worker owns it.

    Attributes:
        device: "cpu".
        dtype: What it computes in, by its name.
        width: Length of a result row: the dimension of a vector, or 1 for a score.
    """

    device = "cpu"

    def __init__(
        self,
        build: Callable[[], ov.Model],
        readout: Readout,
        settings: Settings,
        *,
        dtype: str,
        width: int,
        max_batch_tokens: int,
        more_inputs: MoreInputs | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Build the graph and compile it.

        Args:
            build: Makes the graph; asked once more in a forked child. Its inputs are ids, int32 (B, L), right-padded
                with 0, and lengths, int32 (B, 1).
            readout: Its output to rows.
            settings: How to compute.
            dtype: The name of what it computes in.
            width: Length of a result row.
            max_batch_tokens: Token budget of a pass.
            more_inputs: What the graph takes after ids and lengths; None is nothing.
            elsewhere: What computes longer sequences; None: there are none.
        """
        self.dtype = dtype
        self.width = width
        self._build = build
        self._readout = readout
        self._more_inputs = more_inputs
        self._elsewhere = elsewhere
        self._settings = settings
        self._budget = Budget(max_batch_tokens, self.device)
        self._request: Any = None
        _ALIVE.add(self)
        self._compile()

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        """Free what is compiled before a fork comes: a child that has half of it hangs or aborts."""
        if not ends():  # when the interpreter ends, other modules may be gone
            with process.forks_wait(finalizer=True):
                self._request = self._elsewhere = None

    @property
    def max_batch_tokens(self) -> int:
        """Return the token budget of a pass."""
        return self._budget.tokens

    def _compile(self) -> None:
        model = self._build()
        with process.forks_wait():  # until it is where `renew` finds it: a child frees what is in a thread's frames
            self._request = compiled(model, self._settings)

    def activate(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def is_fatal(self, error: BaseException) -> bool:
        """Return False: whatever fails, the next batch may not."""
        del error
        return False

    def run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return float32 (R, width), rows in the order of `tokens`.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        return self.launch(tokens).result()

    def launch(self, tokens: Sequence[Tokens]) -> Done:
        """Compute one batch, in passes of sequences of about one length.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        if self._request is None:
            self._compile()
        if len(tokens) == 1:
            return Done(self._rows(tokens))
        parts: list[np.ndarray | None] = [None] * len(tokens)
        for batch in buckets([len(item.ids) for item in tokens], self.max_batch_tokens):
            items = [tokens[index] for index in batch]
            ends = np.cumsum([item.rows for item in items])
            for index, rows in zip(batch, np.split(self._rows(items), ends[:-1]), strict=True):
                parts[index] = rows
        return Done(np.concatenate([part for part in parts if part is not None]))

    def _rows(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return the rows of one pass, or of its halves if memory runs out."""
        try:
            rows = self._computed(tokens)
        except Exception as error:
            release_frames(error)
            if not is_out_of_memory(error):
                raise
            return self._halved(tokens, error)
        self._budget.grow()
        return rows

    def _computed(self, tokens: Sequence[Tokens]) -> np.ndarray:
        if self._elsewhere is not None and max(len(item.ids) for item in tokens) > self._elsewhere.above:
            return self._elsewhere.run(tokens)
        return self._readout(self._run(tokens), tokens)

    def _halved(self, tokens: Sequence[Tokens], error: Exception) -> np.ndarray:
        if len(tokens) == 1:
            raise DeviceMemoryError(
                f"A sequence of {len(tokens[0].ids)} tokens does not fit into memory. Lower max_length, or use "
                "quantization='int8'."
            ) from error
        self._budget.shrink(max(len(item.ids) for item in tokens))
        half = len(tokens) // 2
        return np.concatenate([self._rows(tokens[:half]), self._rows(tokens[half:])])

    def _run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return the graph's output, in memory that the next pass writes over."""
        lengths = [len(item.ids) for item in tokens]
        longest = max(lengths)
        ids = np.zeros((len(tokens), longest), dtype=np.int32)
        for row, item in zip(ids, tokens, strict=True):
            row[: len(item.ids)] = item.ids
        request = self._request
        more = self._more_inputs(tokens, longest) if self._more_inputs is not None else ()
        inputs = [ids, np.array(lengths, dtype=np.int32)[:, None], *more]  # held until `infer` ends: it owns no memory
        for number, values in enumerate(inputs):
            request.set_input_tensor(number, ov.Tensor(values, shared_memory=True))
        request.infer()
        output: np.ndarray = request.get_output_tensor(0).data
        return output

    def renew(self) -> None:
        """Leave what the parent of a forked process compiled, and compile anew when the next batch comes.

        Its threads do not exist here: to free it would be to wait for them for ever.
        """
        if self._request is not None:
            abandon(self._request)
            self._request = None
        if self._elsewhere is not None:
            self._elsewhere.renew()


def abandon(request: object) -> None:
    """Keep an object of OpenVINO's for ever: to free what a fork copied would be to wait for threads that are gone."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(request))


_ALIVE: weakref.WeakSet[OpenVinoEngine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_ALIVE):
        engine.renew()


process.in_child(_after_fork)
