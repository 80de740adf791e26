"""One tensor as a weight file stores it.

numpy has no bfloat16: such a tensor is kept as the uint16 of its bits, and `dtype` says what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

    def copied(self) -> Stored:
        """Return the same in memory of its own."""
        return Stored(self.dtype, np.array(self.values))

    def taken(self, places: np.ndarray) -> Stored:
        """Return a copy of some rows."""
        return Stored(self.dtype, self.values[places])
