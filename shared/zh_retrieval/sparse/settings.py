"""What BM25 may be told."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from zh_retrieval.errors import ConfigError

AVERAGE_LENGTH = 256.0
"""Terms of a text, where a corpus does not say its own: passages of 350 characters (also fastembed's default)."""


@dataclass(frozen=True, slots=True)
class BM25Settings:
    """Settings of the sparse encoder `bm25-zh`.

    Attributes:
        k1: How much a term counts that is in a text more than once; at least 0.
        b: How much the length of a text counts against it, 0 to 1.
        average_length: Terms of a text of the corpus on the average (`average_length`).

    Raises:
        ConfigError: A value is out of its range.
    """

    k1: float = 1.2
    b: float = 0.75
    average_length: float = AVERAGE_LENGTH

    def __post_init__(self) -> None:
        k1, b = check_weights(self.k1, self.b)
        length = self.average_length
        if not _is_number(length) or length <= 0:
            raise ConfigError(f"average_length={length!r} must be a positive number of terms.")
        for name, value in (("k1", k1), ("b", b), ("average_length", float(length))):
            object.__setattr__(self, name, value)


def check_weights(k1: float, b: float) -> tuple[float, float]:
    """Return both as floats.

    Raises:
        ConfigError: `k1` is below 0, or `b` not in [0, 1].
    """
    if not _is_number(k1) or k1 < 0 or not _is_number(b) or not 0 <= b <= 1:
        raise ConfigError(f"BM25 with k1={k1!r}, b={b!r}: expected k1 of at least 0 and b between 0 and 1.")
    return float(k1), float(b)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
