"""Rounded weights of a large model in a file of their own, from which the memory of its graph is mapped.

OpenVINO lays weights out anew when it compiles and keeps what it was given: in anonymous memory both would count, and
a 7B model in int8 would need 14 GB. What lies in a file is the system's to drop. The file stays for the next start.

The file: arrays, each at a multiple of 4096; JSON that says where they are, with a checksum of each; the length of the
JSON, its SHA-256, and a mark. Its name is a hash of the weight files, of the way of rounding and of this format.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from zh_retrieval.checkpoint.tensors import Stored
from zh_retrieval.engine.openvino import rounding
from zh_retrieval.engine.openvino.rounding import Form

logger = logging.getLogger(__name__)

ENVIRONMENT = "ZH_RETRIEVAL_ROUNDED_WEIGHTS"
"""Variable that says in which folder rounded weights are kept, or "off": then in a temporary file that is not kept."""

_FORMAT = 1
_MARK = b"zh-rounded-1\n"
_TAIL = 8 + 32 + len(_MARK)
_PAGE = 4096
_SMALL = 1_000_000_000  # bytes that memory may hold twice
_SAMPLES, _SAMPLE = 64, 4096  # places of a weight file that its identity looks at, and bytes at each


def identity(files: list[Path], what: str) -> str:
    """Return what tells rounded weights from others: the files they were made of, and how.

    Of each file count its name, size, time of change, its first bytes, and samples of the rest.
    """
    digest = hashlib.sha256(f"{_FORMAT} {what}".encode())
    for file in files:
        state = file.stat()
        digest.update(f"\n{file.name} {state.st_size} {state.st_mtime_ns} ".encode())
        with file.open("rb") as opened:
            for number in range(_SAMPLES):
                opened.seek(number * max(0, state.st_size - _SAMPLE) // max(1, _SAMPLES - 1))
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()[:40]


def keeping_folder(root: Path) -> Path | None:
    """Return where rounded weights are kept: what the environment says, else a folder of the cache; None is nowhere."""
    said = os.environ.get(ENVIRONMENT, "").strip()
    if said.lower() in ("off", "0", "no", "false"):
        return None
    return Path(said).expanduser() if said else root / "zh-retrieval-rounded"


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


@contextlib.contextmanager
def rounded_weights(folder: Path | None, name: str, size: int) -> Iterator[RoundedWeights]:
    """Give rounded weights: those kept in a folder under a name, or new ones, which are kept if the block ends well.

    One process at a time rounds; others wait and then find the file. Where nothing can be kept, a temporary file takes
    its place, and memory where there is no room for that either. What is small is in memory always.

    Args:
        folder: Where to keep; None is nowhere.
        name: Of the file.
        size: About how many bytes there will be.
    """
    if size < _SMALL:
        yield RoundedWeights()
    elif folder is not None and _is_usable(folder, size, f"{name}.weights"):
        with _kept(folder / f"{name}.weights", size) as weights:
            yield weights
    elif _is_usable(Path(tempfile.gettempdir()), size):
        with tempfile.TemporaryFile(buffering=0) as file:
            yield RoundedWeights(file)
    else:
        logger.warning("No disk has room for %.1f GB of rounded weights: memory holds them twice", size / 1e9)
        yield RoundedWeights()


@contextlib.contextmanager
def _kept(path: Path, size: int) -> Iterator[RoundedWeights]:
    from filelock import FileLock

    partial = path.with_suffix(".partial")
    with FileLock(f"{path}.lock"):
        if path.is_file():
            with path.open("rb") as file:
                index = read_index(file)
                if index is not None:
                    yield RoundedWeights(file, index)
                    return
            logger.warning("%s is damaged: it is made anew", path)
        logger.info("Rounded weights, %.1f GB, are kept in %s; %s says where, or off", size / 1e9, path, ENVIRONMENT)
        try:
            with partial.open("w+b", buffering=0) as file:
                weights = RoundedWeights(file)
                yield weights
                whole = weights.finish()
            if whole:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _is_usable(folder: Path, size: int, present: str = "") -> bool:
    """Return True if a folder can be written to and has room, or has the file already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    return os.access(folder, os.W_OK) and (free > 1.05 * size or (bool(present) and (folder / present).is_file()))
