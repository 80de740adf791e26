"""The slopes of ALiBi (Press et al. 2022): what a token of distance costs in each head."""

from __future__ import annotations


def slopes(heads: int) -> list[float]:
    """Return the slope of each head.

    A power of two n gives s, s^2, ... with s = 2^(-8/n); otherwise the slopes of the lower power of two are followed by
    every other slope of the next one.
    """
    lower = 2 ** (heads.bit_length() - 1)
    first = [2 ** (-8 * (index + 1) / lower) for index in range(lower)]
    second = [2 ** (-8 * (index + 1) / (2 * lower)) for index in range(0, 2 * lower, 2)]
    return [*first, *second][:heads]
