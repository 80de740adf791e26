"""Padding-free attention for packed rows, registered with transformers as "zh_packed".

Axes: N heads, K key-value heads, T tokens of all sequences, L tokens of one, D head size.
Reaches every transformers model that uses the attention interface; `Layout` comes in as the keyword `packed`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.batching import Layout

NAME = "zh_packed"


def register() -> None:
    """Make `attn_implementation="zh_packed"` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention within each sequence of the packed row, (1, T, N, D), and no weights.

    Args:
        module: The attention layer; `is_causal` says whether a token sees later ones.
        query: (1, N, T, D).
        key: (1, K, T, D); K divides N.
        value: (1, K, T, D).
        attention_mask: Unused: the layout says what belongs together.
        packed: Where the sequences lie.
        scaling: Factor of the logits; None is 1/sqrt(D).
        sliding_window: A causal token sees at most this many tokens, itself included.
    """
    q, k, v = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))  # (T, N, D), (T, K, D), (T, K, D)
    causal = bool(getattr(module, "is_causal", False))
    window = sliding_window if causal and sliding_window and packed.longest > sliding_window else None
    attend = _attend_varlen if _varlen_fits(q) else _attend_runs
    return attend(q, k, v, packed, causal, scaling, window).unsqueeze(0), None


def _varlen_fits(q: torch.Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] <= 256 and _varlen() is not None


def _varlen() -> Any:
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return None
    return varlen.varlen_attn


def _attend_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Layout,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Flash attention of the torch wheel. torch 2.10 has `is_causal`; from 2.11 on `window_size` says it, then GQA."""
    import inspect

    function = _varlen()
    names = inspect.signature(function).parameters
    options: dict[str, Any] = {"scale": scaling} if "scale" in names else {}
    if "window_size" in names:
        options["window_size"] = (window - 1 if window else -1, 0 if causal else -1)
    elif window:
        return _attend_runs(q, k, v, packed, causal, scaling, window)
    else:
        options["is_causal"] = causal
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in names:
            options["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    cu, longest = packed.cu_seqlens, packed.longest
    out: torch.Tensor = function(q.contiguous(), k.contiguous(), v.contiguous(), cu, cu, longest, longest, **options)
    return out


def _attend_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Layout,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One unmasked SDPA call for each run of equal lengths."""
    out = torch.empty_like(q)
    grouped = q.shape[1] != k.shape[1]
    for start, size, length in packed.runs:
        rows = slice(start, start + size * length)
        sq, sk, sv = (
            t[rows].view(size, length, t.shape[1], t.shape[2]).transpose(1, 2) for t in (q, k, v)
        )  # (size, N, L, D)
        mask = _band(length, window, q.device) if window and length > window else None
        attended = F.scaled_dot_product_attention(
            sq,
            sk,
            sv,
            attn_mask=mask,
            is_causal=causal and mask is None and length > 1,
            scale=scaling,
            enable_gqa=grouped,
        )
        out[rows].view(size, length, q.shape[1], q.shape[2]).copy_(attended.transpose(1, 2))
    return out


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)  # (L, L)
