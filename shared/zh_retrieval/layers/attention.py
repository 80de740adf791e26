"""Padding-free attention for packed rows, registered with transformers as "zh_packed".

Axes: N heads, K key-value heads, T tokens of all sequences, L tokens of one, D head size.
Reaches every transformers model that uses the attention interface; `Layout` comes in as the keyword `packed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import library, nn

from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers.capped import attend_capped
from zh_retrieval.layers.masks import band, same_sequence
from zh_retrieval.layers.packing import Layout
from zh_retrieval.layers.runs import Run, group

NAME = "zh_packed"

_HARMLESS = frozenset(
    {
        "cache_position",  # nothing is generated, so there is no cache
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",  # applied before by the layer; the layout says where sequences begin
        "return_dict",
        "use_cache",
    }
)  # what models hand down to every layer and attention need not know


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
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention within each sequence of the packed row, (1, T, N, D), and no weights.

    Args:
        module: The attention layer; its `is_causal` says whether a token sees later ones.
        query: (1, N, T, D).
        key: (1, K, T, D); K divides N.
        value: (1, K, T, D), of the same or another head size.
        attention_mask: None: the layout says what belongs together.
        packed: Where the sequences lie.
        scaling: Factor of the logits; None is 1/sqrt(D).
        sliding_window: A causal token sees at most this many tokens, itself included.
        is_causal: Says it in place of the module.
        softcap: Bound of the logits, as in Gemma 2.
        s_aux: (N,): the sinks of the heads, as in gpt-oss.
        others: Harmless, or not in use: None, False or 0, as dropout is.

    Raises:
        CheckpointError: The layer asks for something that is not computed here.
    """
    _check_others({"attention_mask": attention_mask, **others})
    q, k, v = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))  # (T, N, D), (T, K, D), (T, K, D)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    longest, runs = packed.longest, packed.runs
    if packed.keys is not None:
        if not causal:
            raise CheckpointError("Sequences share a prefix, whose tokens would have to see what comes after it.")
        k, v = packed.keys.of(module, k, v)
        longest, runs = packed.keys.longest, packed.keys.runs
    window = sliding_window if causal and sliding_window and longest > sliding_window else None
    plain = softcap is None and s_aux is None
    if plain and q.shape[-1] == v.shape[-1] and _varlen_fits(q, window):
        out = _attend_varlen(q, k, v, packed, causal, scaling, window)
    elif torch.compiler.is_compiling():
        out = _attend_opaque(q, k, v, packed.bounds(q.device), causal, scaling, window, softcap, s_aux)
    elif runs:
        out = _attend_runs(q, k, v, runs, causal, scaling, window, softcap, s_aux)
    else:
        mask = same_sequence(packed.bounds(q.device), q.shape[0])
        if causal:
            mask &= band(q.shape[0], window or q.shape[0], q.device)
        out = attend_masked(q, k, v, mask, scaling) if plain else attend_capped(q, k, v, mask, scaling, softcap, s_aux)
    return out.unsqueeze(0), None


def _check_others(others: Mapping[str, Any]) -> None:
    for name, given in others.items():
        if name not in _HARMLESS and (isinstance(given, torch.Tensor) or given):
            raise CheckpointError(f"Packed attention does not know {name!r}, which this model's layers ask for.")


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
    seen, most = (cu, longest) if packed.keys is None else (packed.keys.bounds(q.device), packed.keys.longest)
    out: torch.Tensor = _varlen(q.contiguous(), k.contiguous(), v.contiguous(), cu, seen, longest, most, **options)
    return out


def _attend_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    runs: Sequence[Run],
    causal: bool,
    scaling: float | None,
    window: int | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """One SDPA call for each run of equal lengths; two products for each sequence where SDPA cannot.

    Only windows and prefixes need a mask.
    """
    out = _empty_out(q, v)
    grouped = q.shape[1] != k.shape[1]
    first = 0  # key of a run
    for start, size, length, before in runs:
        seen = before + length
        rows, keys = slice(start, start + size * length), slice(first, first + size * seen)
        first += size * seen
        if softcap is not None or sinks is not None:
            allowed = band(length, window or seen, q.device, before) if causal else q.new_ones(length, length).bool()
            parts = zip(q[rows].split(length), k[keys].split(seen), v[keys].split(seen), strict=True)
            out[rows] = torch.cat([attend_capped(*part, allowed, scaling, softcap, sinks) for part in parts])
            continue
        sq = q[rows].view(size, length, *q.shape[1:]).transpose(1, 2)  # (size, N, L, D)
        sk, sv = (t[keys].view(size, seen, *t.shape[1:]).transpose(1, 2) for t in (k, v))
        masked = (window and seen > window) or (before and length > 1)
        mask = band(length, window or seen, q.device, before) if masked else None
        attended = F.scaled_dot_product_attention(
            sq,
            sk,
            sv,
            attn_mask=mask,
            is_causal=causal and mask is None and length > 1,
            scale=scaling,
            enable_gqa=grouped,
        )
        out[rows].view(size, length, q.shape[1], v.shape[2]).copy_(attended.transpose(1, 2))
    return out


def _empty_out(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.new_empty(*q.shape[:2], v.shape[2])  # (T, N, D) with the head size of the values


@library.custom_op("zh_retrieval::attend", mutates_args=())
def _attend_opaque(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    causal: bool,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """`_attend_runs` as one operator for torch.compile, which would otherwise compile anew for all other lengths."""
    return _attend_runs(q, k, v, group(cu_seqlens.diff().tolist()), causal, scaling, window, softcap, sinks)


@_attend_opaque.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> torch.Tensor:
    return _empty_out(q, v)


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
