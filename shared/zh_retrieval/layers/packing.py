"""Sequences of token ids packed into one row without padding.

Axes: B sequences, T tokens of all sequences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from zh_retrieval.layers.keys import Keys
from zh_retrieval.layers.runs import Run, group
from zh_retrieval.sequence import Tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each sequence lies in the packed row.

    Attributes:
        lengths: Tokens of each sequence, (B,).
        starts: First token of each sequence, (B,).
        runs: Neighbours of equal length, grouped; () where the lengths are known to the device alone (`graphs`).
        cu_seqlens: int32 (B + 1,) on the model's device: 0, l0, l0 + l1, ..., T.
        longest: The largest length.
        keys: What the sequences see where they share prefixes (`pack_shared`); None: each sees its own tokens.
        cache: What layers make of the layout once for each device.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    runs: tuple[Run, ...]
    cu_seqlens: torch.Tensor
    longest: int
    keys: Keys | None = None
    cache: dict[tuple[str, torch.device], Any] = field(default_factory=dict, repr=False, compare=False)

    def bounds(self, device: torch.device) -> torch.Tensor:
        """Return `cu_seqlens` on a device; the layers of one model may lie on several. Copied there once."""
        if self.cu_seqlens.device == device:
            return self.cu_seqlens
        key = ("bounds", device)
        if key not in self.cache:
            self.cache[key] = self.cu_seqlens.to(device)
        bounds: torch.Tensor = self.cache[key]
        return bounds


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward pass: `input_ids` and `position_ids` are int64 (1, T); positions restart at 0 in every sequence.

    `token_types`, int64 (1, T), is None where all are 0.
    """

    tokens: tuple[Tokens, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    layout: Layout
    token_types: torch.Tensor | None = None


def pack(
    tokens: Sequence[Tokens], device: torch.device, position_offset: int = 0, before: Sequence[int] = ()
) -> PackedBatch:
    """Return the sequences as one row, in the given order.

    `position_offset` is the first position id (2 for XLM-R); `before` says how many tokens are before each sequence.
    Copies to CUDA are pinned and do not block.
    """
    lengths = [len(item.ids) for item in tokens]
    *starts, total = accumulate(lengths, initial=0)
    ids = torch.tensor([token for item in tokens for token in item.ids], dtype=torch.int64, device="cpu")
    places = zip(before or [0] * len(lengths), lengths, strict=True)
    positions = torch.cat([torch.arange(low, low + length, dtype=torch.int64, device="cpu") for low, length in places])
    cu_seqlens = torch.tensor([*starts, total], dtype=torch.int32, device="cpu")
    layout = Layout(tuple(lengths), tuple(starts), group(lengths), to_device(cu_seqlens, device), max(lengths))
    types = None
    if any(item.second is not None for item in tokens):
        seconds = torch.tensor([len(item.ids) if item.second is None else item.second for item in tokens])
        first = positions < seconds.repeat_interleave(torch.tensor(lengths))
        types = to_device((~first).to(torch.int64), device).unsqueeze(0)
    positions += position_offset
    return PackedBatch(
        tuple(tokens), to_device(ids, device).unsqueeze(0), to_device(positions, device).unsqueeze(0), layout, types
    )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the CPU tensor on `device`; copies to CUDA go through pinned memory and do not block."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
