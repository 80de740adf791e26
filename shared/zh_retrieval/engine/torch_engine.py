"""One loaded model on one device: sequences in, float32 rows out.

Axes: B sequences, L tokens of the longest, T tokens of all, R result rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.errors import DeviceMemoryError
from zh_retrieval.layers.packing import PackedBatch, pack, round_up
from zh_retrieval.layers.readout import Readout
from zh_retrieval.sequence import Tokens

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Pending:
    """Rows that a device may still be computing."""

    rows: torch.Tensor
    event: torch.cuda.Event | None = None

    @property
    def ready(self) -> bool:
        """Return True if `result` would not wait."""
        return self.event is None or self.event.query()

    def result(self) -> np.ndarray:
        """Return float32 (R, width), after waiting for the device if need be."""
        if self.event is not None:
            self.event.synchronize()
        array: np.ndarray = self.rows.numpy()
        return array


class Engine:
    """Runs batches on one device. Not thread-safe: one worker owns it.

    Attributes:
        device: Where the model is.
        dtype: What it computes in.
        width: Length of a result row: the dimension of a vector, or 1 for a score.
        max_batch_tokens: Token budget of a forward pass; halves itself when the device runs out of memory.
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
        graphs: QueryGraphs | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.width = width
        self.max_batch_tokens = max_batch_tokens
        self._body = body
        self._readout = readout
        self._position_offset = position_offset
        self._forward = self._forward_packed if packed else self._forward_padded
        self._graphs = graphs
        self._rounds = packed and device.type == "cpu"

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
        try:
            return self._launch(tokens)
        except torch.OutOfMemoryError as error:
            if len(tokens) == 1:
                raise DeviceMemoryError(
                    f"A sequence of {len(tokens[0].ids)} tokens does not fit into the memory of {self.device}. "
                    "Lower max_length, or use a smaller dtype."
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.max_batch_tokens = max(1, sum(len(item.ids) for item in tokens) // 2)
        logger.warning("%s ran out of memory: token budget is now %d", self.device, self.max_batch_tokens)
        half = len(tokens) // 2
        rows = [self.launch(part).result() for part in (tokens[:half], tokens[half:])]
        return Pending(torch.from_numpy(np.concatenate(rows)))

    @torch.inference_mode()
    def _launch(self, tokens: Sequence[Tokens]) -> Pending:
        total = sum(len(item.ids) for item in tokens)
        fill = round_up(total) - total if self._rounds else 0
        if fill:
            tokens = [*tokens, Tokens([0] * fill, targets=(0,))]  # a sequence of its own: no other result sees it
        batch = pack(tokens, self.device, self._position_offset)
        hidden = self._graphs.hidden(batch) if self._graphs else None
        rows = self._readout(self._forward(batch) if hidden is None else hidden, batch)
        if fill:
            rows = rows[:-1]
        if self.device.type != "cuda":
            return Pending(rows.cpu())
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Pending(host, event)

    def _forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        output = self._body(input_ids=batch.input_ids, position_ids=batch.position_ids, packed=batch.layout)
        hidden: torch.Tensor = output[0][0]  # (T, H)
        return hidden

    def _forward_padded(self, batch: PackedBatch) -> torch.Tensor:
        """For architectures without the attention interface: right-padded (B, L), then packed again."""
        lengths = torch.tensor(batch.layout.lengths, device=self.device)
        mask = torch.arange(batch.layout.longest, device=self.device)[None, :] < lengths[:, None]  # (B, L)
        ids = torch.zeros(mask.shape, dtype=torch.int64, device=self.device)
        ids[mask] = batch.input_ids[0]
        output = self._body(input_ids=ids, attention_mask=mask.to(torch.int64), use_cache=False)
        hidden: torch.Tensor = output[0][mask]  # (T, H)
        return hidden
