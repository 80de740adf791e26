"""A sparse vector: which numbers are not zero, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The K numbers of a vector that are not zero. K is 0 for a text without terms.

    Attributes:
        indices: uint32 (K,), rising, each once; below 2**32 - 1, which Milvus refuses.
        values: float32 (K,), above 0.
    """

    indices: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(numbers: Mapping[int, float]) -> SparseVector:
        """Return the vector of numbers by index, in any order."""
        import numpy as np

        indices = np.fromiter(numbers.keys(), dtype=np.uint32, count=len(numbers))
        values = np.fromiter(numbers.values(), dtype=np.float32, count=len(numbers))
        order = np.argsort(indices)
        return SparseVector(indices[order], values[order])

    def as_dict(self) -> dict[int, float]:
        """Return the numbers by index, rising, as Python's own int and float: what JSON and Milvus take."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def dot(self, other: SparseVector) -> float:
        """Return the inner product, 0.0 where no index is shared."""
        import numpy as np

        _, mine, theirs = np.intersect1d(self.indices, other.indices, assume_unique=True, return_indices=True)
        return float(np.dot(self.values[mine].astype(np.float64), other.values[theirs].astype(np.float64)))

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        import numpy as np

        if not isinstance(other, SparseVector):
            return NotImplemented
        return np.array_equal(self.indices, other.indices) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # its arrays can be written to
