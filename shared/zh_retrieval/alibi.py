"""Attention with symmetric ALiBi, packed: logits get -slope * |i - j| (Press et al. 2022; Jina's bidirectional form).

Axes: N heads, T tokens of all sequences, L tokens of one, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from zh_retrieval.batching import Layout

_BLOCK_ELEMENTS = 12 * 128 * 8192  # bias elements that exist at once: 50 MB in float32
_FLEX_LENGTH = 1024  # tokens from which CUDA uses flex_attention: a shorter bias is cheap


def slopes(heads: int) -> list[float]:
    """Return the slope of each head.

    A power of two n gives s, s^2, ... with s = 2^(-8/n); otherwise the slopes of the lower power of two are followed by
    every other slope of the next one.
    """
    lower = 2 ** (heads.bit_length() - 1)
    first = [2 ** (-8 * (index + 1) / lower) for index in range(lower)]
    second = [2 ** (-8 * (index + 1) / (2 * lower)) for index in range(0, 2 * lower, 2)]
    return [*first, *second][:heads]


def alibi_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Layout, slope: torch.Tensor
) -> torch.Tensor:
    """Return attention within each sequence of the packed row, (T, N, D).

    The bias never exists as a whole: it is made for a block of queries at a time.

    Args:
        q: (T, N, D).
        k: (T, N, D).
        v: (T, N, D).
        packed: Where the sequences lie.
        slope: float32 (N,), one slope for each head.
    """
    if q.is_cuda and packed.longest >= _FLEX_LENGTH:
        return _attend_flex(q, k, v, packed, slope)
    out = torch.empty_like(q)
    heads, size_of_head = q.shape[1], q.shape[2]
    for start, size, length in packed.runs:
        rows = slice(start, start + size * length)
        sq, sk, sv = (t[rows].view(size, length, heads, size_of_head).transpose(1, 2) for t in (q, k, v))
        target = out[rows].view(size, length, heads, size_of_head)
        step = max(1, min(length, _BLOCK_ELEMENTS // (heads * length)))
        for low in range(0, length, step):
            bias = _bias(length, low, min(low + step, length), slope).to(q.dtype)  # (1, N, step, L)
            part = F.scaled_dot_product_attention(sq[:, :, low : low + step], sk, sv, attn_mask=bias)
            target[:, low : low + step].copy_(part.transpose(1, 2))
    return out


def _bias(length: int, low: int, high: int, slope: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(length, device=slope.device, dtype=torch.float32)
    distance = (positions[low:high, None] - positions[None, :]).abs()
    return (distance * -slope[:, None, None]).unsqueeze(0)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _attend_flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Layout, slope: torch.Tensor, compiled: bool = True
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    lengths = torch.tensor(packed.lengths, device=q.device)
    owner = torch.repeat_interleave(torch.arange(len(packed.lengths), device=q.device), lengths)  # (T,)

    def same_sequence(_: Any, __: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return owner[i] == owner[j]

    def add_alibi(score: torch.Tensor, _: Any, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return score - slope[head] * (i - j).abs()

    total = q.shape[0]
    mask = create_block_mask(same_sequence, None, None, total, total, device=str(q.device))
    function = _compiled_flex() if compiled else flex_attention
    rows = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)]  # (1, N, T, D)
    out: torch.Tensor = function(*rows, score_mod=add_alibi, block_mask=mask)
    return out[0].transpose(0, 1)
