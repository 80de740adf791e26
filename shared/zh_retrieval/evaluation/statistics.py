"""How sure the numbers are: bootstrap intervals, a paired randomisation test, Holm's correction.

Axes: Q queries, M columns (a system and a metric, or a pair of systems), B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 4_000_000  # random numbers at a time: flat memory


def intervals(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return float64 (2, M), the ends of a 95 % interval of the mean of each column of float64 (Q, M) `values`.

    Percentile bootstrap over queries; the percentiles are moved outward as Hesterberg 2015, "What Teachers Should Know
    About the Bootstrap", 4.2, says ("expanded percentile"), without which 30 queries give intervals that are too
    narrow. All columns see the same resamples, so that differences are paired. With one query, or none, the interval is
    not a number: nothing is known.
    """
    import numpy as np
    from scipy import stats

    queries = len(values)
    if queries < 2:
        return np.full((2, values.shape[1]), np.nan)
    means = np.concatenate([counts @ values for counts in _resampled(queries, seed, resamples)]) / queries  # (B, M)
    reach = np.sqrt(queries / (queries - 1)) * stats.t.ppf((1 + LEVEL) / 2, queries - 1)
    outer = stats.norm.cdf(-reach)
    ends: np.ndarray = np.quantile(means, [outer, 1 - outer], axis=0)
    return ends


def randomisation(differences: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return float64 (M,), how likely a mean as far from 0 as each column's is if only chance chose the signs.

    Fisher's randomisation test, as Smucker, Allan and Carterette 2007 recommend it for retrieval; two-sided.
    """
    import numpy as np

    queries = len(differences)
    seen = np.abs(differences.mean(axis=0)) - 1e-12 if queries else np.zeros(differences.shape[1])
    extreme = np.zeros(differences.shape[1])
    rng = np.random.default_rng(seed)
    for size in _sizes(queries, resamples):
        signs = rng.integers(0, 2, (size, queries), dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ differences / max(1, queries)) >= seen).sum(axis=0)
    likely: np.ndarray = (extreme + 1) / (resamples + 1)
    return likely


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm 1979), each where it stood."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def _resampled(queries: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield float64 (B, Q): how often each query is in a resample."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for size in _sizes(queries, resamples):
        drawn = rng.integers(0, queries, (size, queries))
        drawn += np.arange(size)[:, None] * queries
        yield np.bincount(drawn.reshape(-1), minlength=size * queries).reshape(size, queries).astype(np.float64)


def _sizes(queries: int, resamples: int) -> Iterator[int]:
    step = max(1, _CHUNK // max(1, queries))
    for low in range(0, resamples, step):
        yield min(step, resamples - low)
