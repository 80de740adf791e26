"""What texts became: dense vectors, sparse ones, or both, as columns and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zh_retrieval.files.reading.formats.columns import pyarrow

DENSE = "embedding"
SPARSE = ("sparse_indices", "sparse_values")


class SparseRow(Protocol):
    """A sparse vector, as `zh_retrieval.SparseVector` is one."""

    @property
    def indices(self) -> np.ndarray:
        """Return uint32 (K,)."""
        ...

    @property
    def values(self) -> np.ndarray:
        """Return float32 (K,)."""
        ...


@dataclass(frozen=True, slots=True)
class Empty:
    """The sparse vector of a row that has none."""

    indices: np.ndarray
    values: np.ndarray


NOTHING = Empty(np.empty(0, np.uint32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of N texts, in their order.

    Attributes:
        dense: float32 (N, D); None where none are wanted.
        sparse: N sparse vectors; None where none are wanted.
    """

    dense: np.ndarray | None = None
    sparse: Sequence[SparseRow] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns that it becomes: "embedding", "sparse_indices" and "sparse_values"."""
        return (*((DENSE,) if self.dense is not None else ()), *(SPARSE if self.sparse is not None else ()))

    def none(self) -> Encoded:
        """Return the vectors of no texts, of the same kinds and dimension."""
        return Encoded(None if self.dense is None else self.dense[:0], None if self.sparse is None else [])

    def spread(self, places: Sequence[int], count: int) -> Encoded:
        """Return the vectors of `count` texts: row i goes to places[i], the others are zeros and empty."""
        dense, sparse = self.dense, self.sparse
        if dense is not None:
            rows = np.zeros((count, dense.shape[1]), dtype=np.float32)
            rows[list(places)] = dense
            dense = rows
        if sparse is not None:
            found: list[SparseRow] = [NOTHING] * count
            for place, vector in zip(places, sparse, strict=True):
                found[place] = vector
            sparse = found
        return Encoded(dense, sparse)

    def columns(self, missing: np.ndarray | None = None) -> dict[str, Any]:
        """Return name -> Arrow array, rows that are True in bool (N,) `missing` as nulls.

        "embedding" is FixedSizeList<float32>[D], "sparse_indices" List<uint32>, "sparse_values" List<float32>.
        """
        pa = pyarrow()
        mask = pa.array(missing) if missing is not None and missing.any() else None
        made = {}
        if self.dense is not None:
            flat = pa.array(self.dense.reshape(-1), type=pa.float32())
            made[DENSE] = pa.FixedSizeListArray.from_arrays(flat, self.dense.shape[1], mask=mask)
        if self.sparse is not None:
            ends = np.cumsum([0, *(len(vector.indices) for vector in self.sparse)], dtype=np.int32)
            for name, side, kind in zip(SPARSE, ("indices", "values"), (np.uint32, np.float32), strict=True):
                parts = [np.asarray(getattr(vector, side), dtype=kind) for vector in self.sparse]
                flat = np.concatenate(parts) if parts else np.empty(0, kind)
                made[name] = pa.ListArray.from_arrays(ends, pa.array(flat), mask=mask)
        return made

    def json(self) -> Iterator[str]:
        """Yield the members of each text's JSON object; nine digits give a float32 back exactly."""
        rows = len(self.dense if self.dense is not None else self.sparse or ())
        for row in range(rows):
            said = []
            if self.dense is not None:
                said.append(f'"{DENSE}": {_floats(self.dense[row])}')
            if self.sparse is not None:
                vector = self.sparse[row]
                said.append(f'"{SPARSE[0]}": [{",".join(map(str, vector.indices.tolist()))}]')
                said.append(f'"{SPARSE[1]}": {_floats(vector.values)}')
            yield ", ".join(said)


def _floats(values: np.ndarray) -> str:
    return f"[{','.join([f'{value:.9g}' for value in values.tolist()])}]"
