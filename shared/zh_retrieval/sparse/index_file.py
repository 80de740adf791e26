"""A BM25 index as one file, in the safetensors format: arrays and a header of JSON, mapped when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.files.whole import write_whole
from zh_retrieval.sparse.segment import Segment
from zh_retrieval.sparse.settings import check_weights

FORMAT = "zh-retrieval BM25 index, version 1"
_KINDS = {
    "keys": ("U64",), "starts": ("U32",), "texts": ("U16",), "counts": ("U8", "U16", "U32"), "lengths": ("U32",),
    "serials": ("I64",), "alive": ("BOOL",),
}  # fmt: skip
_DTYPES = {
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "I64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
_MOST_HEADER = 2**26  # bytes

Id = int | str


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds.

    Attributes:
        segments: All texts.
        ids: Of those that are not deleted, in order; None: their numbers.
        k1: As `BM25Index`.
        b: As `BM25Index`.
        following: The number of the next text.
    """

    segments: Sequence[Segment]
    ids: list[Id] | None
    k1: float
    b: float
    following: int


def write(file: Path, stored: Stored) -> None:
    """Write the file whole.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors.numpy import save_file

    arrays = {
        f"{number}.{name}": np.ascontiguousarray(getattr(part, name))
        for number, part in enumerate(stored.segments)
        for name in _KINDS
    }
    if stored.ids is not None:
        arrays["ids"] = np.frombuffer(json.dumps(stored.ids).encode(), dtype=np.uint8)
    said = {
        "format": FORMAT, "k1": repr(stored.k1), "b": repr(stored.b), "following": str(stored.following),
        "segments": str(len(stored.segments)),
    }  # fmt: skip
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent} is not a folder. Create it, or choose another place for the index.")
    write_whole(file, lambda path: save_file(arrays, path, metadata=said))


def read(file: Path) -> Stored:
    """Return what a file holds, its arrays mapped.

    Raises:
        CheckpointError: It is no index, or is damaged.
        OSError: It cannot be read.
    """
    try:
        header, start = _header(file)
        said = cast(Mapping[str, str], header.pop("__metadata__", {}))
        if said.get("format") != FORMAT:
            raise ValueError(f"expected {FORMAT!r}, got {str(said.get('format'))[:80]!r}")
        k1, b = check_weights(float(said["k1"]), float(said["b"]))
        mapped = np.memmap(file, dtype=np.uint8, mode="r", offset=start) if header else np.empty(0, dtype=np.uint8)
        segments = [_segment(mapped, header, number) for number in range(int(said["segments"]))]
        ids = json.loads(_array(mapped, header, "ids", ("U8",)).tobytes()) if "ids" in header else None
        stored = Stored(segments, ids, k1, b, int(said["following"]))
        _check(stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is no BM25 index, or is damaged ({str(error)[:200]}). Build it again from the texts."
        ) from error
    return stored


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the numbers begin."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= _MOST_HEADER:
            raise ValueError("no header")
        header = json.loads(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header, 8 + size


def _array(mapped: np.ndarray, header: Mapping[str, Any], name: str, kinds: tuple[str, ...]) -> np.ndarray:
    kind, (length,), (low, high) = (header[name][field] for field in ("dtype", "shape", "data_offsets"))
    dtype = np.dtype(_DTYPES[kind])
    if kind not in kinds or not 0 <= low <= high <= len(mapped) or high - low != length * dtype.itemsize:
        raise ValueError(f"{name} is of another kind or size than its header says")
    return mapped[low:high].view(dtype)


def _segment(mapped: np.ndarray, header: Mapping[str, Any], number: int) -> Segment:
    part = Segment(**{name: _array(mapped, header, f"{number}.{name}", kinds) for name, kinds in _KINDS.items()})
    texts = {len(part.lengths), len(part.serials), len(part.alive)}
    starts = part.starts.astype(np.int64)
    if len(texts) != 1 or 0 in texts or len(starts) != len(part.keys) + 1 or len(part.counts) != len(part.texts):
        raise ValueError(f"the arrays of segment {number} do not belong together")
    if starts[0] != 0 or starts[-1] != len(part.texts) or (np.diff(starts) < 0).any():
        raise ValueError(f"segment {number} has impossible postings")
    return part


def _check(stored: Stored) -> None:
    serials = np.concatenate([part.serials for part in stored.segments]) if stored.segments else np.empty(0, np.int64)
    if (np.diff(serials) <= 0).any() or (len(serials) and not 0 <= serials[0] <= serials[-1] < stored.following):
        raise ValueError("the texts' numbers do not rise")
    if stored.ids is not None:
        alive = sum(int(np.count_nonzero(part.alive)) for part in stored.segments)
        known = all(isinstance(id, (int, str)) and not isinstance(id, bool) for id in stored.ids)
        if not known or len(set(stored.ids)) != alive or len(stored.ids) != alive:
            raise ValueError("the ids are not one for each text")


assert set(_KINDS) == {entry.name for entry in fields(Segment)}
