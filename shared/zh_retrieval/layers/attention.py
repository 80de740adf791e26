"""Padding-free attention for packed rows, registered with transformers as "zh_packed".

Axes: N heads, K key-value heads, T tokens of all sequences, L tokens of one, D head size.
Reaches every transformers model that uses the attention interface; `Layout` comes in as the keyword `packed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import library, nn

from zh_retrieval.layers.packing import Layout, Run, group

NAME = "zh_packed"

_BY_PRODUCTS = range(48, 1025)  # tokens of a sequence for which two products beat SDPA; the logits still fit the caches


def _find_varlen() -> Any:
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return None
    return varlen.varlen_attn


_varlen = _find_varlen()
_VARLEN_OPTIONS = frozenset(inspect.signature(_varlen).parameters if _varlen else ())


def register() -> None:
    """Make `attn_implementation="zh_packed"` known to transformers; calling it again changes nothing.

    No mask function goes with it: transformers then makes no mask, nor searches the position ids for sequences, which
    would wait for the device in every pass.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


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
    if _varlen_fits(q, window):
        out = _attend_varlen(q, k, v, packed, causal, scaling, window)
    elif torch.compiler.is_compiling():
        out = _attend_opaque(q, k, v, packed.bounds(q.device), causal, scaling, window)
    elif packed.runs:
        out = _attend_runs(q, k, v, packed.runs, causal, scaling, window)
    else:
        mask = same_sequence(packed.bounds(q.device), q.shape[0])
        if causal:
            mask &= _band(q.shape[0], window or q.shape[0], q.device)
        out = attend_masked(q, k, v, mask, scaling)
    return out.unsqueeze(0), None


def _varlen_fits(q: torch.Tensor, window: int | None) -> bool:
    half = q.dtype in (torch.bfloat16, torch.float16)
    known = bool(_VARLEN_OPTIONS) and (window is None or "window_size" in _VARLEN_OPTIONS)
    return q.is_cuda and half and q.shape[-1] <= 256 and known and _has_flash(q.device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_flash(device: torch.device) -> bool:
    """Return True where flash attention of the torch wheel runs: NVIDIA from capability 8.0 (Ampere) on."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


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
    options: dict[str, Any] = {"scale": scaling} if "scale" in _VARLEN_OPTIONS else {}
    if "window_size" in _VARLEN_OPTIONS:
        options["window_size"] = (window - 1 if window else -1, 0 if causal else -1)
    else:
        options["is_causal"] = causal
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in _VARLEN_OPTIONS:
            options["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    cu, longest = packed.bounds(q.device), packed.longest
    out: torch.Tensor = _varlen(q.contiguous(), k.contiguous(), v.contiguous(), cu, cu, longest, longest, **options)
    return out


def _attend_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    runs: Sequence[Run],
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One unmasked SDPA call for each run of equal lengths, or two products for each sequence."""
    out = torch.empty_like(q)
    grouped = q.shape[1] != k.shape[1]
    for start, size, length in runs:
        rows = slice(start, start + size * length)
        if not causal and by_products(q, length):
            for low in range(start, start + size * length, length):
                part = slice(low, low + length)
                out[part] = attend_products(q[part], k[part], v[part], scaling)
            continue
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


def by_products(q: torch.Tensor, length: int) -> bool:
    """Return True where `attend_products` beats SDPA, whose CPU kernel is as slow in bfloat16 as in float32."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and length in _BY_PRODUCTS


def attend_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return attention of one sequence, (L, N, D), by two matrix products.

    q, k and v are (L, N, D); `bias`, (N, L, L), is added to the logits.
    """
    sq, sk, sv = (tensor.transpose(0, 1) for tensor in (q, k, v))  # (N, L, D)
    logits = torch.matmul(sq * (q.shape[-1] ** -0.5 if scaling is None else scaling), sk.transpose(1, 2))
    if bias is not None:
        logits += bias
    return torch.matmul(logits.softmax(-1), sv).transpose(0, 1)


@library.custom_op("zh_retrieval::attend", mutates_args=())
def _attend_opaque(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """`_attend_runs` as one operator for torch.compile, which would otherwise compile anew for all other lengths."""
    return _attend_runs(q, k, v, group(cu_seqlens.diff().tolist()), causal, scaling, window)


@_attend_opaque.register_fake
def _(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(q)


def attend_masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float | None = None
) -> torch.Tensor:
    """Return attention of the whole row under a mask, (T, N, D), for short rows.

    Args:
        q: (T, N, D).
        k: (T, K, D); K divides N.
        v: (T, K, D).
        mask: bool (T, T), or in the dtype of q (N, T, T) to be added to the logits.
        scaling: Factor of the logits; None is 1/sqrt(D).
    """
    sq, sk, sv = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))  # (1, N, T, D)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(sq, sk, sv, attn_mask=mask.unsqueeze(0), scale=scaling, enable_gqa=grouped)
    return out[0].transpose(0, 1)


def same_sequence(cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
    """Return bool (T, T): which tokens belong to one sequence, without asking the device for the lengths."""
    owner = torch.searchsorted(
        cu_seqlens, torch.arange(total, device=cu_seqlens.device, dtype=torch.int32), right=True
    )  # (T,)
    return owner[:, None] == owner[None, :]


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)  # (L, L)
