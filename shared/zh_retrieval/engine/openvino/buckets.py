"""Which sequences share a padded batch: a few shapes, little padding."""

from __future__ import annotations

from collections.abc import Sequence

from zh_retrieval.sequence import by_length

_PADDING = 0.06  # of a batch's tokens; more costs more than another product with fewer rows


def buckets(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of indices, longest first: at most `budget` tokens, padding included, and about 6 % of padding.

    A sequence longer than the budget is alone.
    """
    batches: list[list[int]] = []
    held = 0  # tokens of the last batch without padding
    for index in by_length(lengths):
        length = lengths[index]
        if batches:
            padded = (len(batches[-1]) + 1) * lengths[batches[-1][0]]
            if padded <= budget and padded - held - length <= _PADDING * padded:
                batches[-1].append(index)
                held += length
                continue
        batches.append([index])
        held = length
    return batches
