"""Weights stored in 4-bit blocks, unpacked in memory.

A weight W (R, C) is `W.q4` uint8 (R, C / 32, 16) and `W.scale` float16 (R, C / 32): the low four bits of byte j of a
block are column j, the high four bits column 16 + j, each minus 8 and times the block's scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.errors import CheckpointError

FILE = "model.q4.safetensors"


def is_packed(folder: Path) -> bool:
    """Return True if the folder holds 4-bit weights."""
    return (folder / FILE).is_file()


def unpacked(stored: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """Return every tensor of the file as float32, by the name transformers gives it.

    Raises:
        CheckpointError: A weight has no scales, or not one for each block.
    """
    state = {name: each.float32() for name, each in stored.items() if not name.endswith((".q4", ".scale"))}
    for name, packed in stored.items():
        if name.endswith(".q4"):
            weight = name.removesuffix(".q4")
            scale = stored.get(f"{weight}.scale")
            if scale is None or packed.shape != (*scale.shape, 16):
                raise CheckpointError(f"{FILE}: {weight!r} lacks a scale for each of its blocks.")
            state[weight] = _unpack(packed.values, scale.float32())
    return state


def _unpack(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    halves = np.concatenate((packed & 15, packed >> 4), axis=-1).astype(np.float32) - 8  # (R, C / 32, 32)
    halves *= scale[..., None]
    return halves.reshape(len(packed), -1)
