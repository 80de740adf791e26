"""The tensors of a folder without torch: mapped from safetensors files, so that nothing is read before it is used.

numpy has no bfloat16: such a tensor is kept as the uint16 of its bits, and `dtype` says what they mean.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zh_retrieval.checkpoint import blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

_NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as a file stores it.

    Attributes:
        dtype: The name safetensors gives it: "F32", "F16", "BF16", ...
        values: The numbers, mapped from the file where that is possible; uint16 for bfloat16.
    """

    dtype: str
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its sizes."""
        return tuple(self.values.shape)

    @property
    def floating(self) -> bool:
        """Return True for what holds fractions."""
        return self.dtype in _FLOATING

    def float32(self) -> np.ndarray:
        """Return float32 of the same shape: the mapped numbers themselves if they are float32, else a copy."""
        if self.dtype == "BF16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(self.values, dtype=np.float32)

    def rows(self, low: int, high: int) -> Stored:
        """Return rows low to high, without a copy."""
        return Stored(self.dtype, self.values[low:high])

    def taken(self, places: np.ndarray) -> Stored:
        """Return a copy of some rows."""
        return Stored(self.dtype, self.values[places])


def read_tensors(files: list[Path]) -> dict[str, Stored]:
    """Return every tensor of the weight files by its name; those of 4-bit blocks unpacked.

    `files` are what `weight_files` returns, checked. `.bin` files are read by torch, which maps them too.
    """
    if [file.name for file in files] == [blocks.FILE]:
        return {name: Stored("F32", array) for name, array in blocks.unpacked(dict(_mapped(files[0]))).items()}
    tensors: dict[str, Stored] = {}
    for file in files:
        tensors.update(stored_in(file))
    return tensors


def stored_in(file: Path) -> Iterator[tuple[str, Stored]]:
    """Return the tensors of one file as it stores them, with their names."""
    return _mapped(file) if file.suffix == ".safetensors" else _pickled(file)


def _mapped(file: Path) -> Iterator[tuple[str, Stored]]:
    """Yield what a safetensors file holds. Its header was checked by the library itself (`weight_files.shapes`)."""
    mapped = np.memmap(
        file, dtype=np.uint8, mode="c"
    )  # OpenVINO refuses memory that cannot be written, and writes none
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    for name, entry in json.loads(mapped[8:start].tobytes()).items():
        if name == "__metadata__" or entry["dtype"] not in _NUMPY:
            continue
        low, high = entry["data_offsets"]
        values = mapped[start + low : start + high].view(np.ndarray)
        yield name, Stored(entry["dtype"], _typed(values, _NUMPY[entry["dtype"]]).reshape(entry["shape"]))


def _typed(raw: np.ndarray, dtype: type) -> np.ndarray:
    """Return bytes as numbers; what does not lie on a multiple of their size is copied."""
    size = np.dtype(dtype).itemsize
    return (raw if raw.ctypes.data % size == 0 else raw.copy()).view(dtype)


def _pickled(file: Path) -> Iterator[tuple[str, Stored]]:
    import torch

    stored = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    for name, tensor in stored.items():
        yield name, _of_torch(tensor)


def _of_torch(tensor: torch.Tensor) -> Stored:
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    kind = names.get(tensor.dtype, "I64")
    return Stored(kind, (tensor.view(torch.uint16) if kind == "BF16" else tensor).numpy())


def from_module(module: nn.Module) -> dict[str, Stored]:
    """Return the tensors of a torch module, which has had an adapter merged into it."""
    state: dict[str, torch.Tensor] = module.state_dict()
    return {name: _of_torch(tensor.detach()) for name, tensor in state.items()}
