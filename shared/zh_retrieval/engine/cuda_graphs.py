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

from zh_retrieval.layers.packing import Layout, PackedBatch

logger = logging.getLogger(__name__)

_BUCKETS = (16, 32, 64)  # tokens; a longer query fills the device long enough to hide how its kernels start

Run = Callable[[], torch.Tensor]
Record = Callable[[Run], tuple[torch.Tensor, Callable[[], object]]]


def record_cuda(run: Run) -> tuple[torch.Tensor, Callable[[], object]]:
    """Return the tensor that `run` leaves its result in, and what computes it again from the same inputs' memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose and load their kernels
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return result, graph.replay


@dataclass(frozen=True, slots=True)
class _Recorded:
    input_ids: torch.Tensor  # int64 (1, L)
    bounds: torch.Tensor  # int32 (3,): 0, tokens of the query, L
    hidden: torch.Tensor  # (L, H)
    replay: Callable[[], object]


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
        record: Record = record_cuda,
    ) -> None:
        self._body: Any = body
        self._device = device
        self._offset = position_offset
        self._record = record
        self._buckets = [length for length in _BUCKETS if length <= length_limit]
        self._recorded: dict[int, _Recorded] = {}

    def hidden(self, batch: PackedBatch) -> torch.Tensor | None:
        """Return (T, H), valid until the next call; None if the batch is no short query or graphs do not work here."""
        length = batch.layout.longest
        bucket = next((bucket for bucket in self._buckets if bucket >= length), None)
        if len(batch.tokens) != 1 or bucket is None:
            return None
        if bucket not in self._recorded:
            try:
                self._recorded[bucket] = self._prepare(bucket)
            except RuntimeError as error:  # what CUDA says of an operator that cannot be recorded
                logger.info("CUDA graphs are not used: %s", error)
                self._buckets = []
                return None
        recorded = self._recorded[bucket]
        recorded.input_ids[:, :length].copy_(batch.input_ids)
        recorded.bounds[1].fill_(length)
        recorded.replay()
        return recorded.hidden[:length]

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
        return _Recorded(ids, bounds, hidden, replay)
