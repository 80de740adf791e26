"""Prefixes that sequences of a packed row share: their tokens stand in the row once, and every sequence sees them.

Axes: T tokens of the row, S keys of all sequences, P tokens of a prefix, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from zh_retrieval.layers.packing import PackedBatch, Run, group, pack, to_device
from zh_retrieval.sequence import Tokens


class Past:
    """Keys and values of a prefix for every attention layer, where the layer is: each (P, K, D).

    Attributes:
        length: P.
        usable: False if a layer attends twice in a pass: what it would need is not all here.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.usable = True
        self._layers: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys and values."""
        return self._layers[layer]

    def add(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep a copy of a layer's keys and values."""
        self.usable &= layer not in self._layers
        self._layers[layer] = key.clone(), value.clone()

    @property
    def nbytes(self) -> int:
        """Return the bytes of all layers."""
        return sum(tensor.nbytes for pair in self._layers.values() for tensor in pair)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A prefix, and the sequences of a batch that begin with it.

    Attributes:
        ids: Its tokens, P; () is none.
        indices: Of the sequences.
        past: Its keys and values from an earlier pass; None: it is computed in this one.
        record: Takes the keys and values that are computed; None: nobody wants them.
    """

    ids: Sequence[int]
    indices: Sequence[int]
    past: Past | None = None
    record: Past | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """Which keys each sequence of a row sees: those of its prefix, then its own.

    Attributes:
        rows: int64 (S,): for one sequence after the other, which rows of [pasts, row] its keys are.
        cu_seqlens: int32, on the row's device: where each sequence's keys begin, and their end.
        longest: The most keys of one sequence.
        runs: Neighbours of equal length and equally long prefixes, of all sequences of the row.
        pasts: Prefixes of earlier passes, in the order of their rows.
        records: What takes keys and values of this pass, and which rows of the row they are.
    """

    rows: torch.Tensor
    cu_seqlens: torch.Tensor
    longest: int
    runs: tuple[Run, ...]
    pasts: tuple[Past, ...] = ()
    records: tuple[tuple[Past, slice], ...] = ()
    _copies: dict[tuple[int, torch.device], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def of(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values that the sequences see, (S, K, D), from those of the row's tokens, (T, K, D)."""
        for record, where in self.records:
            record.add(layer, key[where], value[where])
        pasts = [past.of(layer) for past in self.pasts]
        rows = self._on(key.device, self.rows)
        return (
            torch.cat([*(keys for keys, _ in pasts), key])[rows],
            torch.cat([*(values for _, values in pasts), value])[rows],
        )

    def bounds(self, device: torch.device) -> torch.Tensor:
        """Return `cu_seqlens` on a device."""
        return self._on(device, self.cu_seqlens)

    def _on(self, device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on a device; the layers of one model may lie on several. Copied there once."""
        if tensor.device == device:
            return tensor
        key = (id(tensor), device)
        if key not in self._copies:
            self._copies[key] = tensor.to(device)
        return self._copies[key]


def pack_shared(
    tokens: Sequence[Tokens], beginnings: Sequence[Beginning], device: torch.device, position_offset: int = 0
) -> PackedBatch:
    """Return the sequences as one row, in the given order and without their prefixes, whose tokens come after them.

    Tokens, lengths, starts and runs are those of what is left of the sequences: what reads hidden states sees no
    prefix. Each index is in one beginning.
    """
    if not any(beginning.ids for beginning in beginnings):
        return pack(tokens, device, position_offset)
    fresh = [beginning for beginning in beginnings if beginning.ids and beginning.past is None]
    before, owners = [0] * (len(tokens) + len(fresh)), [0] * len(tokens)
    for number, beginning in enumerate(beginnings):
        for index in beginning.indices:
            before[index], owners[index] = len(beginning.ids), number
    rests = [
        Tokens(item.ids[count:], targets=item.targets) if count else item
        for item, count in zip(tokens, before, strict=False)
    ]
    whole = pack([*rests, *(Tokens(beginning.ids) for beginning in fresh)], device, position_offset, before)
    pasts = tuple(beginning.past for beginning in beginnings if beginning.past is not None)
    low = sum(past.length for past in pasts)  # where the row begins
    fresh_starts = iter(whole.layout.starts[len(tokens) :])
    firsts, end = {}, 0  # the first key of each prefix
    records = []
    for number, beginning in enumerate(beginnings):
        if beginning.past is not None:
            firsts[number], end = end, end + beginning.past.length
        elif beginning.ids:
            start = next(fresh_starts)
            firsts[number] = low + start
            if beginning.record is not None:
                records.append((beginning.record, slice(start, start + len(beginning.ids))))
    rows, counts = [], []
    for index, (start, length) in enumerate(zip(whole.layout.starts, whole.layout.lengths, strict=True)):
        seen = before[index]
        if seen:
            first = firsts[owners[index]]
            rows.append(torch.arange(first, first + seen, device="cpu"))
        rows.append(torch.arange(low + start, low + start + length, device="cpu"))
        counts.append(seen + length)
    bounds = torch.tensor([0, *counts], device="cpu").cumsum(0).to(torch.int32)
    keys = Keys(
        to_device(torch.cat(rows), device),
        to_device(bounds, device),
        max(counts),
        group(whole.layout.lengths, before),
        pasts,
        tuple(records),
    )
    lengths, starts = (part[: len(tokens)] for part in (whole.layout.lengths, whole.layout.starts))
    layout = replace(whole.layout, lengths=lengths, starts=starts, runs=group(lengths), keys=keys)
    return replace(whole, tokens=tuple(rests), layout=layout)
