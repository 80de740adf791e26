"""The tensors of a folder without torch: mapped from the weight files, so that nothing is read before it is used."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.checkpoint import blocks
from zh_retrieval.checkpoint.pickled import read_pickled
from zh_retrieval.checkpoint.stored import Stored

if TYPE_CHECKING:
    import torch
    from torch import nn

_NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_tensors(files: list[Path]) -> dict[str, Stored]:
    """Return every tensor of the weight files by its name; those of 4-bit blocks unpacked.

    `files` are what `weight_files` returns, checked.
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


def forget_pages(tensors: Mapping[str, Stored]) -> None:
    """Give back the memory of mapped files; what is looked at again is read again, mostly from the system's cache."""
    maps: dict[int, Any] = {}
    for stored in tensors.values():
        base: Any = stored.values
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        maps[id(base)] = base
    for each in maps.values():
        if each is not None and hasattr(mmap, "MADV_DONTNEED"):
            each.madvise(mmap.MADV_DONTNEED)


def _typed(raw: np.ndarray, dtype: type) -> np.ndarray:
    """Return bytes as numbers; what does not lie on a multiple of their size is copied."""
    size = np.dtype(dtype).itemsize
    return (raw if raw.ctypes.data % size == 0 else raw.copy()).view(dtype)


def _pickled(file: Path) -> Iterator[tuple[str, Stored]]:
    found = read_pickled(file)
    mapped = np.memmap(file, dtype=np.uint8, mode="c")
    for name, tensor in found.tensors.items():
        kind, start = tensor.storage.kind, found.places[tensor.storage.key]
        size = tensor.storage.count * np.dtype(_NUMPY[kind]).itemsize
        numbers = _typed(mapped[start : start + size].view(np.ndarray), _NUMPY[kind])
        yield name, Stored(kind, tensor.of(numbers))


def _of_torch(tensor: torch.Tensor) -> Stored:
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    kind = names.get(tensor.dtype, "I64")
    return Stored(kind, (tensor.view(torch.uint16) if kind == "BF16" else tensor).numpy())


def from_module(module: nn.Module) -> dict[str, Stored]:
    """Return the tensors of a torch module, which has had an adapter merged into it."""
    state: dict[str, torch.Tensor] = module.state_dict()
    return {name: _of_torch(tensor.detach()) for name, tensor in state.items()}
