"""Which sequences share a padded batch: a few shapes, little padding.

OpenVINO prepares kernels and memory for every shape that it meets, and keeps them: a new shape is slow, and many are
much memory. So a batch has one of a few lengths and one of a few counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from zh_retrieval.sequence import by_length

_PADDING = 0.06  # of a batch's tokens; more costs more than another product with fewer rows


def padded_length(length: int) -> int:
    """Return the tokens that a sequence is padded to: a multiple of 4, and of a 32nd of the next power of two."""
    return _up(length, max(4, _power(length) // 32))


def padded_count(count: int) -> int:
    """Return how many rows a batch of so many sequences has: all numbers up to 16, eight a doubling above."""
    return _up(count, max(1, _power(count) // 16))


def buckets(lengths: Sequence[int], budget: int, past: int = 0) -> list[list[int]]:
    """Return batches of indices, longest first: at most `budget` tokens, padding included, and little of it.

    That is about 6 %, or rows of one padded length. A sequence longer than the budget is alone. Where sequences go on
    from `past` tokens, each row has a copy of their keys and values: with those it is at most four times the budget.
    """
    batches: list[list[int]] = []
    held = longest = 0  # tokens of the last batch without padding, and what its rows are padded to
    for index in by_length(lengths):
        length = lengths[index]
        if batches:
            rows = len(batches[-1]) + 1
            little = rows * longest - held - length <= _PADDING * rows * longest
            fits = longest <= budget // padded_count(rows) and past + longest <= 4 * budget // padded_count(rows)
            if fits and (little or padded_length(length) == longest):
                batches[-1].append(index)
                held += length
                continue
        batches.append([index])
        held, longest = length, padded_length(length)
    return batches


def _power(number: int) -> int:
    """Return the least power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
