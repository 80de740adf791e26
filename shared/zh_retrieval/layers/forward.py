"""A batch through a model's body, as packed row or as padded rows.

Axes: B sequences, L tokens of the longest, T tokens of all, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch

from zh_retrieval.layers.packing import PackedBatch


def packed_hidden(body: Any, batch: PackedBatch) -> torch.Tensor:
    """Return the last hidden states, (T, H), of a body that uses packed attention."""
    types = {} if batch.token_types is None else {"token_type_ids": batch.token_types}
    output = body(input_ids=batch.input_ids, position_ids=batch.position_ids, packed=batch.layout, **types)
    hidden: torch.Tensor = output[0][0]
    return hidden


def padded_hidden(body: Any, batch: PackedBatch) -> torch.Tensor:
    """Return the last hidden states, (T, H), of any body: right-padded to (B, L), then packed again."""
    device = batch.input_ids.device
    lengths = torch.tensor(batch.layout.lengths, device=device)
    mask = torch.arange(batch.layout.longest, device=device)[None, :] < lengths[:, None]  # (B, L)
    ids = torch.zeros(mask.shape, dtype=torch.int64, device=device)
    ids[mask] = batch.input_ids[0]
    output = body(input_ids=ids, attention_mask=mask.to(torch.int64), use_cache=False)
    hidden: torch.Tensor = output[0][mask.to(output[0].device)]  # the last layer may be on another device
    return hidden
