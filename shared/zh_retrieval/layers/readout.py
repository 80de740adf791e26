"""What is read from the last hidden states: vectors, pair logits or query likelihoods.

Axes: T tokens of the packed row, R result rows, H hidden, V vocabulary.
Every readout returns float32 (R, width), rows in the order of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.layers.packing import PackedBatch, to_device
from zh_retrieval.recipes.spec import Pooling
from zh_retrieval.sequence import row_places

Readout = Callable[[torch.Tensor, PackedBatch], torch.Tensor]

_HEAD_ROWS = 256  # rows of logits at a time: 156 MB in float32 for 151936 words


def pooled(pooling: Pooling, dimensions: int | None = None, dense: nn.Module | None = None) -> Readout:
    """Return the readout of an embedder: one L2-normalised vector for each sequence, or for each of its spans.

    `dense` makes float32 (R, O) of the float32 (R, H) that is pooled. `dimensions` keeps so many of the first numbers
    and normalises those (Matryoshka); None keeps all.
    """

    def read(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        if any(item.spans is not None for item in batch.tokens):
            rows = _span_means(hidden, batch)
        elif pooling == "cls":
            rows = hidden[_index(batch.layout.starts, hidden)].float()
        elif pooling == "last":
            ends = [start + length - 1 for start, length in zip(batch.layout.starts, batch.layout.lengths, strict=True)]
            rows = hidden[_index(ends, hidden)].float()
        else:
            rows = _means(hidden, batch)
        if dense is not None:
            rows = dense.to(rows.device)(rows)
        vectors: torch.Tensor = F.normalize(rows[:, :dimensions], dim=-1)
        return vectors

    return read


def with_token_weights(vectors: Readout, weight: torch.Tensor, bias: float) -> Readout:
    """Return the readout of an embedder that also gives each token's weight to the sequences that ask for it.

    The weight is relu(weight · state + bias), in float32 whatever the body computes in; `weight` is float32 (H,).
    """

    def read(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        dense = vectors(hidden, batch)
        if not any(item.weight_rows for item in batch.tokens):
            return dense
        places, weights = row_places(batch.tokens, dense.shape[1])
        count = sum(item.rows for item in batch.tokens)
        rows = dense.new_zeros((count, dense.shape[1]))
        rows[_index(places, hidden)] = dense
        asking = [
            start + token
            for start, part in zip(batch.layout.starts, weights, strict=True)
            for token in range(len(part))
        ]
        states = hidden[_index(asking, hidden)].float()
        numbers = torch.relu(states @ weight.to(hidden.device) + bias)
        rows.view(-1)[_index([place for part in weights for place in part], hidden)] = numbers
        return rows

    return read


def classified(head: nn.Module) -> Readout:
    """Return the readout of a cross-encoder: the raw logit that `head` gives for the first row, (R, 1).

    Of two labels (not relevant, relevant) it is the second's logit minus the first's, whose sigmoid is the softmax'
    second number. `head` is transformers' classification head, which takes (R, 1, H) and reads the first token.
    """

    def read(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        rows = hidden[_index(batch.layout.starts, hidden)]
        logits: torch.Tensor = head(rows.unsqueeze(1)).float()  # (R, 1) or (R, 2)
        return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]

    return read


def query_likelihood(head: nn.Module) -> Readout:
    """Return the readout of a causal LM: mean log p (natural log) of each sequence's targets, (R, 1).

    `head` gives (R, V) for (R, H), with the scalings and caps of its model. It runs on the target positions only, a few
    hundred rows at a time; the softmax is float32 whatever the dtype of the model.
    """

    def read(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        positions: list[int] = []
        targets: list[int] = []
        owners: list[int] = []
        counts: list[int] = []
        for row, (item, start, length) in enumerate(
            zip(batch.tokens, batch.layout.starts, batch.layout.lengths, strict=True)
        ):
            count = len(item.targets)
            positions.extend(range(start + length - count, start + length))
            targets.extend(item.targets)
            owners.extend([row] * count)
            counts.append(count)
        where, wanted = _index(positions, hidden), _index(targets, hidden)
        parts = []
        for low in range(0, len(positions), _HEAD_ROWS):
            chunk = slice(low, low + _HEAD_ROWS)
            logits = head(hidden[where[chunk]]).float()
            chosen = logits.gather(1, wanted[chunk, None])[:, 0]
            parts.append(chosen - logits.logsumexp(-1))
        sums = torch.zeros(len(counts), device=hidden.device, dtype=torch.float32)
        sums.index_add_(0, _index(owners, hidden), torch.cat(parts))
        return (sums / _index(counts, hidden)).unsqueeze(1)

    return read


def answer_margin(head: nn.Module) -> Readout:
    """Return the readout of a language model that answers yes or no: log p(yes) - log p(no) of the last row, (R, 1).

    `head` gives the logits of yes and no, (R, 2), for (R, H). The normaliser of the softmax is the same for both and
    drops out, so that their difference is the result.
    """

    def read(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        ends = [start + length - 1 for start, length in zip(batch.layout.starts, batch.layout.lengths, strict=True)]
        rows = hidden[_index(ends, hidden)]
        logits = torch.cat([head(part) for part in rows.split(_HEAD_ROWS)]).float()
        return logits[:, :1] - logits[:, 1:]

    return read


def _index(values: list[int] | tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return to_device(torch.tensor(values, dtype=torch.int64), like.device)


def _means(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    parts = []
    for start, size, length, _ in batch.layout.runs:
        rows = hidden[start : start + size * length].view(size, length, -1)
        parts.append(rows.mean(dim=1, dtype=torch.float32))
    return torch.cat(parts)


def _span_means(hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    rows = []
    for item, start, length in zip(batch.tokens, batch.layout.starts, batch.layout.lengths, strict=True):
        for low, high in item.spans if item.spans is not None else ((0, length),):
            rows.append(hidden[start + low : start + high].mean(dim=0, dtype=torch.float32))
    return torch.stack(rows)
