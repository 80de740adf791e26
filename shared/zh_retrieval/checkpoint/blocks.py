"""Weights stored in 4-bit blocks, unpacked in memory.

A weight W (R, C) is `W.q4` uint8 (R, C / 32, 16) and `W.scale` float16 (R, C / 32): the low four bits of byte j of a
block are column j, the high four bits column 16 + j, each minus 8 and times the block's scale.
"""

from __future__ import annotations

from pathlib import Path

import torch

from zh_retrieval.errors import CheckpointError

FILE = "model.q4.safetensors"


def is_packed(folder: Path) -> bool:
    """Return True if the folder holds 4-bit weights."""
    return (folder / FILE).is_file()


def state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the folder as float32, by the name transformers gives it.

    Raises:
        CheckpointError: A weight has no scales, or not one for each block.
    """
    from safetensors.torch import load_file

    stored = load_file(folder / FILE)
    state = {name: tensor for name, tensor in stored.items() if not name.endswith((".q4", ".scale"))}
    for name, packed in stored.items():
        if name.endswith(".q4"):
            weight = name.removesuffix(".q4")
            scale = stored.get(f"{weight}.scale")
            if scale is None or packed.shape != (*scale.shape, 16):
                raise CheckpointError(f"{folder / FILE}: {weight!r} lacks a scale for each of its blocks.")
            state[weight] = _unpack(packed, scale)
    return state


def _unpack(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    halves = torch.cat((packed & 15, packed >> 4), dim=-1).to(torch.float32) - 8  # (R, C / 32, 32)
    return (halves * scale.to(torch.float32).unsqueeze(-1)).flatten(1)
