"""Rounded weights of a large model in a file of their own, from which the memory of its graph is mapped.

OpenVINO lays weights out anew when it compiles and keeps what it was given: in anonymous memory both would count, and
a 7B model in int8 would need 14 GB. What lies in a file is the system's to drop. The file stays for the next start.

The file: arrays, each at a multiple of 4096; JSON that says where they are, with a checksum of each; the length of the
JSON, its SHA-256, and a mark. Its name is a hash of the weight files' content, of the way of rounding and of this
format (`identity`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.engine.openvino.weights import rounding
from zh_retrieval.engine.openvino.weights.rounding import Form

logger = logging.getLogger(__name__)

_FORMAT = 1
_MARK = b"zh-rounded-1\n"
_TAIL = 8 + 32 + len(_MARK)
_PAGE = 4096


def identity(weights: str, what: str) -> str:
    """Return what tells rounded weights from others: the digest of what they were made of, and how."""
    return hashlib.sha256(f"{_FORMAT} {what} {weights}".encode()).hexdigest()[:40]


class RoundedWeights:
    """Rounded weights by name: mapped from a kept file, or rounded now, one tensor at a time, and mapped then.

    Args:
        file: What is open: a kept file, or one that is being written; None holds what is rounded in memory.
        index: Name -> arrays of a kept file; None: this one is being written.
    """

    def __init__(self, file: Any = None, index: Mapping[str, Any] | None = None) -> None:
        self._file: Any = file
        self._index = index
        self._written: dict[str, list[dict[str, Any]]] = {}
        self._memory: list[np.ndarray] = []  # what OpenVINO's constants share
        self.not_finite: list[str] = []

    @property
    def kept(self) -> bool:
        """Return True for weights that were rounded by an earlier start."""
        return self._index is not None

    def take(self, name: str, stored: Stored, form: Form) -> list[np.ndarray]:
        """Return codes and scales of a weight."""
        if self._index is not None:
            arrays = [_map(self._file, entry) for entry in self._index[name]]
        else:
            try:
                arrays = self._in_memory(name, stored, form) if self._file is None else self._filed(name, stored, form)
            except OSError as error:  # the disk is full; what lies in the file already stays usable
                logger.warning("Rounded weights go on in memory, which holds them twice: %s", error)
                self._file = None
                arrays = self._in_memory(name, stored, form)
        self._memory.extend(arrays)
        return arrays

    def _in_memory(self, name: str, stored: Stored, form: Form) -> list[np.ndarray]:
        arrays, low = [np.empty(shape, dtype) for dtype, shape in form.arrays()], 0
        for block in self._blocks(name, stored, form):
            for array, part in zip(arrays, block, strict=True):
                array[low : low + len(part)] = part
            low += len(block[0])
        return arrays

    def _filed(self, name: str, stored: Stored, form: Form) -> list[np.ndarray]:
        """Write a weight, and return it mapped: the codes block by block, then the scales, which are small."""
        start, checksum, scales = self._align(), 0, []
        for codes, *rest in self._blocks(name, stored, form):
            checksum = zlib.crc32(codes.data, checksum)
            self._write(codes)
            scales.append(rest)
        (dtype, shape), *_ = form.arrays()
        entries = [_entry(np.dtype(dtype), shape, start, checksum)]
        for parts in zip(*scales, strict=True):
            whole = np.concatenate(parts)
            entries.append(_entry(whole.dtype, whole.shape, self._align(), zlib.crc32(whole.data)))
            self._write(whole)
        self._written[name] = entries
        return [_map(self._file, entry) for entry in entries]

    def _blocks(self, name: str, stored: Stored, form: Form) -> Iterator[list[np.ndarray]]:
        for block in rounding.blocks(stored, form):
            if not rounding.is_finite(block) and name not in self.not_finite:
                self.not_finite.append(name)
            yield block

    def _write(self, array: np.ndarray) -> None:
        raw = np.ascontiguousarray(array).data.cast("B")
        while raw:
            raw = raw[self._file.write(raw) :]

    def _align(self) -> int:
        place: int = -(-self._file.tell() // _PAGE) * _PAGE
        self._file.seek(place)
        return place

    def finish(self) -> bool:
        """Write what makes the file one that can be kept; False if there is none, or it does not hold everything."""
        if self._file is None or self._index is not None:
            return False
        end = self._align()
        listing = json.dumps({"end": end, "arrays": self._written}).encode()
        tail = len(listing).to_bytes(8, "little") + hashlib.sha256(listing).digest() + _MARK
        try:
            self._write(np.frombuffer(listing + tail, dtype=np.uint8))
            os.fsync(self._file.fileno())
        except OSError as error:
            logger.warning("Rounded weights are not kept: %s", error)
            return False
        return True


def _entry(dtype: Any, shape: tuple[int, ...], start: int, checksum: int) -> dict[str, Any]:
    return {"dtype": dtype.str, "shape": shape, "start": start, "crc32": checksum}


def _map(file: Any, entry: Mapping[str, Any]) -> np.ndarray:
    """Return an array of the file; "c": OpenVINO refuses memory that cannot be written, and writes none."""
    return np.memmap(file, np.dtype(entry["dtype"]), "c", entry["start"], tuple(entry["shape"])).view(np.ndarray)


def read_index(file: IO[bytes]) -> Mapping[str, Any] | None:
    """Return where a kept file's arrays are; None if it is damaged, cut, or none of ours. Every byte of it is read."""
    size = file.seek(0, os.SEEK_END)
    if size < _TAIL:
        return None
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:8], "little")
    if tail[40:] != _MARK or length > size - _TAIL:
        return None
    file.seek(size - _TAIL - length)
    listing = file.read(length)
    if hashlib.sha256(listing).digest() != tail[8:40]:
        return None
    read = json.loads(listing)
    whole = read["end"] == size - _TAIL - length
    index: Mapping[str, Any] = read["arrays"]
    entries = [entry for arrays in index.values() for entry in arrays]
    return index if whole and all(zlib.crc32(_map(file, each).data) == each["crc32"] for each in entries) else None
