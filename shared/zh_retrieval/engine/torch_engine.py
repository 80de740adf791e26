"""One loaded model on one device: sequences in, float32 rows out.

Axes: B sequences, L tokens of the longest, T tokens of all, R result rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from zh_retrieval.engine.budget import Budget
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.devices import Device, Event, TorchDevice, is_lost
from zh_retrieval.engine.prefixes import Prefixes
from zh_retrieval.errors import DeviceMemoryError
from zh_retrieval.layers.forward import packed_hidden, padded_hidden
from zh_retrieval.layers.keys import Past
from zh_retrieval.layers.memory import is_out_of_memory, release_frames
from zh_retrieval.layers.packing import PackedBatch, pack
from zh_retrieval.layers.readout import Readout
from zh_retrieval.layers.shared import Beginning, pack_shared
from zh_retrieval.sequence import Tokens


@dataclass(slots=True)
class Pending:
    """Rows that a device may still be computing; `recover` gives them where it failed."""

    rows: torch.Tensor
    event: Event | None = None
    recover: Callable[[Exception], np.ndarray] | None = None

    @property
    def ready(self) -> bool:
        """Return True if `result` would not wait; also where the device failed, which `result` then says."""
        try:
            return self.event is None or self.event.query()
        except RuntimeError:
            return True

    def result(self) -> np.ndarray:
        """Return float32 (R, width), after waiting for the device if need be.

        Raises:
            DeviceMemoryError: Memory ran out while the device computed, and one sequence alone does not fit.
        """
        failure = self._wait()
        if failure is not None:
            if self.recover is None:
                raise failure
            return self.recover(failure)
        array: np.ndarray = self.rows.numpy()
        return array

    def _wait(self) -> Exception | None:
        try:
            if self.event is not None:
                self.event.synchronize()
        except Exception as error:
            return error
        return None


class TorchEngine:
    """Runs batches on one device. Not thread-safe: one worker owns it.

    Attributes:
        device: Where the model is.
        dtype: What it computes in.
        width: Length of a result row: the dimension of a vector, or 1 for a score.
    """

    def __init__(
        self,
        body: nn.Module,
        readout: Readout,
        *,
        device: torch.device,
        dtype: torch.dtype,
        width: int,
        max_batch_tokens: int,
        position_offset: int = 0,
        packed: bool = True,
        causal: bool = False,
        graphs: QueryGraphs | None = None,
        runtime: Device | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.width = width
        self._budget = Budget(max_batch_tokens, str(device))
        self._body = body
        self._readout = readout
        self._position_offset = position_offset
        self._forward = packed_hidden if packed else padded_hidden
        self._prefixes = Prefixes[Past](max_batch_tokens) if packed and causal else None
        self._graphs = graphs
        self._runtime: Device = TorchDevice(device) if runtime is None else runtime

    @property
    def max_batch_tokens(self) -> int:
        """Return the token budget of a forward pass (see `Budget`)."""
        return self._budget.tokens

    def activate(self) -> AbstractContextManager[object]:
        """Return a context in which the engine's device is the thread's current one, for a worker's whole life."""
        return self._runtime.activate()

    def is_fatal(self, error: BaseException) -> bool:
        """Return True after an error that leaves the device unusable for this process: nothing is worth another try."""
        return is_lost(error)

    def run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return float32 (R, width), rows in the order of `tokens`, in as many passes as the memory needs.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        return self.launch(tokens).result()

    def launch(self, tokens: Sequence[Tokens]) -> Pending:
        """Start one batch and return its pending rows; on CUDA nothing here waits for the device.

        When memory runs out the batch is halved, and so is `max_batch_tokens` for the batches to come.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        outcome = self._attempt(tokens, self._graphs)
        if isinstance(outcome, Exception):
            return Pending(torch.from_numpy(self._recover(tokens, outcome)))
        outcome.recover = partial(self._recover, tokens)
        self._budget.grow()
        return outcome

    def _attempt(self, tokens: Sequence[Tokens], graphs: QueryGraphs | None) -> Pending | Exception:
        """Return the pending rows, or the error if memory ran out: what is tried next must not run while it is handled.

        Other errors are raised. Frames are emptied first, as the tensors in them live as long as the error.
        """
        try:
            with self.activate():
                return self._launch(tokens, graphs)
        except Exception as error:
            release_frames(error)
            if is_out_of_memory(error):
                return error
            raise

    def _recover(self, tokens: Sequence[Tokens], error: Exception) -> np.ndarray:
        """Return the rows of a batch that memory ran out for, computed in parts; raise any other error."""
        if not is_out_of_memory(error):
            raise error
        self._runtime.empty_cache()
        if len(tokens) > 1:
            self._budget.shrink(max(len(item.ids) for item in tokens))
            half = len(tokens) // 2
            return np.concatenate([self.launch(part).result() for part in (tokens[:half], tokens[half:])])
        again = self._attempt(tokens, None) if self._graphs is not None else error  # without a graph's own memory
        if isinstance(again, Pending):
            return again.result()
        raise DeviceMemoryError(
            f"A sequence of {len(tokens[0].ids)} tokens does not fit into the memory of {self.device}. "
            "Lower max_length, or use a smaller dtype."
        ) from error

    @torch.inference_mode()
    def _launch(self, tokens: Sequence[Tokens], graphs: QueryGraphs | None) -> Pending:
        if graphs is not None and len(tokens) == 1:
            batch = pack(tokens, self.device, self._position_offset)
            hidden = graphs.hidden(batch)
            if hidden is not None:
                return Pending(*self._runtime.to_host(self._readout(hidden, batch)))
        if self._prefixes is not None:
            batch, hidden = self._shared(tokens, self._prefixes)
        else:
            batch = pack(tokens, self.device, self._position_offset)
            hidden = self._forward(self._body, batch)
        return Pending(*self._runtime.to_host(self._readout(hidden, batch)))

    def _shared(self, tokens: Sequence[Tokens], prefixes: Prefixes[Past]) -> tuple[PackedBatch, torch.Tensor]:
        """Return the row of sequences without the prefixes that they share, and its hidden states.

        Prefixes are computed in the same pass; what is computed of an instruction is kept.
        """
        beginnings = []
        for prefix, indices in prefixes.groups(tokens):
            past = prefixes.get(prefix)
            new = past is None and bool(prefix) and tokens[indices[0]].instructed
            beginnings.append(Beginning(prefix, indices, past, Past(len(prefix)) if new else None))
        batch = pack_shared(tokens, beginnings, self.device, self._position_offset)
        hidden = self._forward(self._body, batch)
        for beginning in beginnings:
            if beginning.record is not None and beginning.record.usable:
                prefixes.keep(tuple(beginning.ids), beginning.record)
        return batch, hidden
