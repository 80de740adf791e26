"""Which keys and values the sequences of a packed row see where they share prefixes.

Axes: T tokens of the row, S keys of all sequences, P tokens of a prefix, K key-value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from zh_retrieval.layers.runs import Run


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
