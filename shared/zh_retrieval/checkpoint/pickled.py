"""Tensors of a `.bin` file without torch: its pickle is read, not run, and its numbers are mapped from the file.

torch.save writes a zip archive that holds `data.pkl` and one uncompressed file of raw numbers for each storage; before
torch 1.6 it wrote pickles one after another, then the numbers. The pickle may name nothing but what a table of tensors
consists of; anything else ends the reading before it is called.

Source of the format: torch/serialization.py, torch/_utils.py and torch/_weights_only_unpickler.py of torch 2.13.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what a file of torch before 1.6 begins with
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry; ends with the lengths of its name and of its extra field
_MOST_PICKLE = 64_000_000  # bytes of data.pkl, which holds names and sizes: real ones have up to a few
_MOST_AXES, _MOST = 8, 2**48  # axes of a tensor; numbers along one, or in a storage


class ForeignPickleError(ValueError):
    """A pickle names what no table of tensors consists of."""


class NoTableError(ValueError):
    """A file of torch holds something else than tensors with names."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in a row, as a pickle names them: the kind ("F32", ...), the key of the data, how many."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Pickled:
    """One tensor as a pickle describes it: a view of a storage. `strides` and `offset` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the view of a storage's numbers, without a copy."""
        strides = tuple(step * numbers.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides)


@dataclass(frozen=True, slots=True)
class PickledFile:
    """What a `.bin` file holds: its tensors by name, and where in the file the bytes of each storage begin."""

    tensors: Mapping[str, Pickled]
    places: Mapping[str, int]


def read_pickled(file: Path) -> PickledFile:
    """Return what a `.bin` file holds; no number of it is read.

    Raises:
        ForeignPickleError: It holds more than tensors; what it names was not run.
        NoTableError: It holds something else.
        ValueError: It is no file of torch, or is cut or broken.
        OSError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            archive = zipfile.is_zipfile(stream)
            stream.seek(0)
            found = _archive(stream) if archive else _stream(stream)
            size = stream.seek(0, io.SEEK_END)
    except (ValueError, OSError):
        raise
    except Exception as error:  # what is broken ends in errors of any kind, in pickle and in zipfile
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None
    for tensor in found.tensors.values():
        storage = tensor.storage
        if storage.key not in found.places or found.places[storage.key] + storage.count * _itemsize(storage) > size:
            raise ValueError(f"the numbers of storage {storage.key[:40]!r} are missing")
    return found


def _archive(stream: IO[bytes]) -> PickledFile:
    """Read the archive of torch 1.6 and later."""
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        table = next((name for name in entries if name.endswith("/data.pkl")), None)
        if table is None:
            raise ValueError("an archive without data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("a compressed archive, which torch does not write")
        if entries[table].file_size > _MOST_PICKLE:
            raise ValueError(f"{entries[table].file_size} bytes of data.pkl")
        folder = table.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise ValueError("numbers in big-endian order")
        with archive.open(table) as pickled:
            tensors = _tensors(_Unpickler(pickled))
    places = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.file_size < storage.count * _itemsize(storage):
            raise ValueError(f"the numbers of storage {storage.key[:40]!r} are missing")
        stream.seek(entry.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
        if not header.startswith(b"PK\x03\x04"):
            raise ValueError("a broken archive")
        places[storage.key] = entry.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
    return PickledFile(tensors, places)


def _stream(stream: IO[bytes]) -> PickledFile:
    """Read the pickles that torch before 1.6 wrote one after another, and find the numbers behind them."""
    if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != _PROTOCOL:
        raise ValueError("no file of torch")
    system = _Unpickler(stream).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("numbers in big-endian order")
    tensors = _tensors(_Unpickler(stream))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    keys = _Unpickler(stream).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("storages that no tensor has")
    places, start = {}, stream.tell()
    for key in keys:
        stream.seek(start)
        if int.from_bytes(stream.read(8), "little") != storages[key].count:
            raise ValueError(f"storage {key[:40]!r} has another length than its tensors say")
        places[key] = start + 8
        start += 8 + storages[key].count * _itemsize(storages[key])
    return PickledFile(tensors, places)


def _tensors(unpickler: _Unpickler) -> dict[str, Pickled]:
    found = unpickler.load()
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Pickled) for name, tensor in found.items()
    ):
        raise NoTableError("no table of tensors")
    return dict(found)


def _itemsize(storage: Storage) -> int:
    return {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(storage.kind, 1)


class _Table(dict[Any, Any]):
    """An OrderedDict of the pickle; the attributes that it carries (`_metadata`) are left out."""

    def __setstate__(self, state: object) -> None:
        pass


class _Kind(str):
    """The name of a storage's type, which a pickle cannot call."""


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Pickled:
    """Return the tensor that `torch._utils._rebuild_tensor_v2` would; refuse a view beyond its storage."""
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor without storage or shape")
    numbers = (offset, *shape, *strides)
    if not len(shape) == len(strides) <= _MOST_AXES or not all(type(n) is int and 0 <= n < _MOST for n in numbers):
        raise ValueError("a tensor of an impossible shape")
    last: int = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise ValueError("a tensor that is larger than its storage")
    return Pickled(storage, offset, shape, strides)


def _parameter(tensor: object, *_: object) -> object:
    return tensor


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any] | str] = {
    ("collections", "OrderedDict"): _Table,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): _Kind(kind) for name, kind in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads one pickle that consists of tables, texts, numbers and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Return our own of what may be named; raise ForeignPickleError for all else."""
        found = _ALLOWED.get((module, name))
        if found is None:
            raise ForeignPickleError(f"it names {module[:80]}.{name[:80]}")
        return found

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that a persistent id names."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise ValueError("a storage of an unknown kind")
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or type(count) is not int or not 0 <= count < _MOST:
            raise ValueError("a storage of an unknown kind")
        return Storage(str(kind), key, count)
