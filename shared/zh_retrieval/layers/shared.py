"""Sequences of a packed row that share prefixes, whose tokens stand in the row once.

Axes: P tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from zh_retrieval.layers.keys import Keys, Past
from zh_retrieval.layers.packing import PackedBatch, pack, to_device
from zh_retrieval.layers.runs import group
from zh_retrieval.sequence import Tokens


@dataclass(frozen=True, slots=True)
class Beginning:
    """A prefix, and the sequences of a batch that begin with it.

    Attributes:
        ids: Its tokens, P; () is none.
        indices: Of the sequences.
        past: Its keys and values from an earlier pass; None: it is computed in this one.
        record: Takes the keys and values that are computed; None: nobody wants them.
    """

    ids: Sequence[int]
    indices: Sequence[int]
    past: Past | None = None
    record: Past | None = None


def pack_shared(
    tokens: Sequence[Tokens], beginnings: Sequence[Beginning], device: torch.device, position_offset: int = 0
) -> PackedBatch:
    """Return the sequences as one row, in the given order and without their prefixes, whose tokens come after them.

    Tokens, lengths, starts and runs are those of what is left of the sequences: what reads hidden states sees no
    prefix. Each index is in one beginning.
    """
    if not any(beginning.ids for beginning in beginnings):
        return pack(tokens, device, position_offset)
    fresh = [beginning for beginning in beginnings if beginning.ids and beginning.past is None]
    before, owners = [0] * (len(tokens) + len(fresh)), [0] * len(tokens)
    for number, beginning in enumerate(beginnings):
        for index in beginning.indices:
            before[index], owners[index] = len(beginning.ids), number
    rests = [item.after(count) for item, count in zip(tokens, before, strict=False)]
    whole = pack([*rests, *(Tokens(beginning.ids) for beginning in fresh)], device, position_offset, before)
    pasts = tuple(beginning.past for beginning in beginnings if beginning.past is not None)
    low = sum(past.length for past in pasts)  # where the row begins
    fresh_starts = iter(whole.layout.starts[len(tokens) :])
    firsts, end = {}, 0  # the first key of each prefix
    records = []
    for number, beginning in enumerate(beginnings):
        if beginning.past is not None:
            firsts[number], end = end, end + beginning.past.length
        elif beginning.ids:
            start = next(fresh_starts)
            firsts[number] = low + start
            if beginning.record is not None:
                records.append((beginning.record, slice(start, start + len(beginning.ids))))
    rows, counts = [], []
    for index, (start, length) in enumerate(zip(whole.layout.starts, whole.layout.lengths, strict=True)):
        seen = before[index]
        if seen:
            first = firsts[owners[index]]
            rows.append(torch.arange(first, first + seen, device="cpu"))
        rows.append(torch.arange(low + start, low + start + length, device="cpu"))
        counts.append(seen + length)
    bounds = torch.tensor([0, *counts], device="cpu").cumsum(0).to(torch.int32)
    keys = Keys(
        to_device(torch.cat(rows), device),
        to_device(bounds, device),
        max(counts),
        group(whole.layout.lengths, before),
        pasts,
        tuple(records),
    )
    lengths, starts = (part[: len(tokens)] for part in (whole.layout.lengths, whole.layout.starts))
    layout = replace(whole.layout, lengths=lengths, starts=starts, runs=group(lengths), keys=keys)
    return replace(whole, tokens=tuple(rests), layout=layout)
