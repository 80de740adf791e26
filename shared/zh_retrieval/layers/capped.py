"""Attention by two matrix products: what SDPA does not compute, capped logits and sinks.

Axes: N heads, K key-value heads, L tokens of one sequence, M tokens that it sees, D head size.
"""

from __future__ import annotations

import torch

_QUERY_ROWS = 512  # queries of a block: with 16 heads and 8192 keys its logits take 268 MB


def attend_capped(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return attention under a mask with capped logits and sinks, (L, N, D), a block of queries at a time.

    Args:
        q: (L, N, D).
        k: (M, K, D); K divides N.
        v: (M, K, D), of the same or another head size.
        mask: bool (L, M): what a query sees.
        scaling: Factor of the logits; None is 1/sqrt(D).
        softcap: c: logits x become c * tanh(x / c), as in Gemma 2.
        sinks: (N,): a logit of each head that takes its share of the softmax and gives nothing, as in gpt-oss.
    """
    length, heads = q.shape[0], q.shape[1]
    sk, sv = (tensor.repeat_interleave(heads // k.shape[1], dim=1).transpose(0, 1) for tensor in (k, v))  # (N, M, D)
    factor = q.shape[-1] ** -0.5 if scaling is None else scaling
    parts = []
    for low in range(0, length, _QUERY_ROWS):
        block = slice(low, low + _QUERY_ROWS)
        logits = torch.matmul(q[block].transpose(0, 1) * factor, sk.transpose(1, 2))  # (N, block, M)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        logits = logits.masked_fill(~mask[block], -torch.inf)
        if sinks is not None:
            column = sinks.to(logits.dtype)[:, None, None].expand(-1, logits.shape[1], 1)
            logits = torch.cat((logits, column), dim=-1)
        weights = logits.softmax(-1, dtype=torch.float32)[..., : k.shape[0]].to(v.dtype)
        parts.append(torch.matmul(weights, sv))
    return torch.cat(parts, dim=1).transpose(0, 1)
