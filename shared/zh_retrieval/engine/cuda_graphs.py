"""CUDA graphs for short queries: the body's hundreds of kernels start as one.

Axes: L tokens of a bucket, H hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zh_retrieval.engine.devices import Run, TorchDevice
from zh_retrieval.layers.memory import is_out_of_memory
from zh_retrieval.layers.packing import Layout, PackedBatch

logger = logging.getLogger(__name__)

_BUCKETS = (16, 32, 64)  # tokens; a longer query fills the device long enough to hide how its kernels start
_PATIENCE = 256  # short queries until a recording is tried again for which memory was missing

Record = Callable[[Run], tuple[torch.Tensor, Callable[[], object]]]


@dataclass(frozen=True, slots=True)
class _Recorded:
    input_ids: torch.Tensor  # int64 (1, L)
    bounds: torch.Tensor  # int32 (3,): 0, tokens of the query, L
    hidden: torch.Tensor  # (L, H)
    replay: Callable[[], object]
    run: Run  # what was recorded: a replay reads the memory of every tensor that it holds


class QueryGraphs:
    """Runs a batch of one short sequence from a graph, recorded when its bucket is first met (`warmup` meets all).

    The rest of a bucket is a second sequence: the query does not see it.
    """

    def __init__(
        self,
        body: nn.Module,
        device: torch.device,
        length_limit: int,
        position_offset: int,
        record: Record | None = None,
    ) -> None:
        self._body: Any = body
        self._device = device
        self._offset = position_offset
        self._record = TorchDevice(device).record if record is None else record
        self._patience = 0
        self._buckets = [length for length in _BUCKETS if length <= length_limit]
        self._recorded: dict[int, _Recorded] = {}

    def hidden(self, batch: PackedBatch) -> torch.Tensor | None:
        """Return (T, H), valid until the next call; None if the batch is no short text or graphs do not work here.

        Raises:
            RuntimeError: Memory ran out while recording, in torch's words; other queries run without graphs a while.
        """
        length = batch.layout.longest
        bucket = next((bucket for bucket in self._buckets if bucket >= length), None)
        if len(batch.tokens) != 1 or batch.token_types is not None or bucket is None or not self._ready(bucket):
            return None
        recorded = self._recorded[bucket]
        recorded.input_ids[:, :length].copy_(batch.input_ids)
        recorded.bounds[1].fill_(length)
        recorded.replay()
        return recorded.hidden[:length]

    def _ready(self, bucket: int) -> bool:
        if bucket in self._recorded:
            return True
        if self._patience:
            self._patience -= 1
            return False
        try:
            self._recorded[bucket] = self._prepare(bucket)
        except Exception as error:  # CUDA and compilers say in many classes that something cannot be recorded
            if is_out_of_memory(error):
                self._patience = _PATIENCE
                raise
            logger.warning("CUDA graphs are not used, short queries take longer: %s", error)
            self._buckets = []
            self._recorded.clear()
            return False
        return True

    def _prepare(self, bucket: int) -> _Recorded:
        ids = torch.zeros((1, bucket), dtype=torch.int64, device=self._device)
        positions = torch.arange(bucket, device=self._device).unsqueeze(0) + self._offset
        bounds = torch.tensor([0, bucket, bucket], dtype=torch.int32, device=self._device)
        layout = Layout((), (), (), bounds, bucket)

        def run() -> torch.Tensor:
            output = self._body(input_ids=ids, position_ids=positions, packed=layout)
            hidden: torch.Tensor = output[0][0]
            return hidden

        hidden, replay = self._record(run)
        return _Recorded(ids, bounds, hidden, replay, run)
