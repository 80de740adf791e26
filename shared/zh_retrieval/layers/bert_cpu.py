"""BERT-shaped layers with fewer operators for the CPU: one product for query, key and value; GELU inside its product.

A short query is bound by the start of parallel regions, one for each operator, so every operator less is time saved.
Axes: T tokens of the packed row, N heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.layers.attention import packed_attention
from zh_retrieval.layers.onednn import Int8Linear, PrepackedLinear, join
from zh_retrieval.layers.packing import Layout


class JoinedSelfAttention(nn.Module):
    """Stands for the self-attention of transformers' BERT and XLM-R, with its three projections as one."""

    is_causal = False

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.num_attention_heads
        self.scaling = attention.scaling
        self.qkv = join(attention.query, attention.key, attention.value)

    def forward(self, hidden_states: torch.Tensor, *_: Any, packed: Layout, **__: Any) -> tuple[torch.Tensor, None]:
        """Return (1, T, N * D) for (1, T, N * D), and no weights."""
        joined = self.qkv(hidden_states).unflatten(-1, (3, self.heads, -1))  # (1, T, 3, N, D)
        q, k, v = (part.transpose(1, 2) for part in joined.unbind(2))  # (1, N, T, D) each
        attended, _none = packed_attention(self, q, k, v, None, packed=packed, scaling=self.scaling)
        return attended.flatten(2), None


def join_projections(body: nn.Module) -> int:
    """Join query, key and value in every bidirectional self-attention that has them; return how many there were."""
    count = 0
    for module in list(body.modules()):
        attention: Any = getattr(module, "self", None)
        if not all(type(getattr(attention, name, None)) is nn.Linear for name in ("query", "key", "value")):
            continue
        if getattr(attention, "is_causal", False):
            continue  # a BERT that is a decoder
        if hasattr(attention, "join_projections"):
            attention.join_projections()
        else:
            module.self = JoinedSelfAttention(attention)
        count += 1
    return count


def narrow_between(body: nn.Module) -> int:
    """Let attention, and the rows within a feed-forward, be bfloat16 between int8 products; return how many changed.

    Attention is then twice as fast, and the widest rows take half the memory; sums and norms stay float32.
    """
    count = 0
    for module in body.modules():
        product = module.dense if hasattr(module, "intermediate_act_fn") else getattr(module, "qkv", None)
        if isinstance(product, Int8Linear):
            product.answers = torch.bfloat16
            count += 1
    return count


class WideNorm(nn.Module):
    """A layer norm that computes and answers in float32, whatever comes in."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight = nn.Parameter(norm.weight.detach().float(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().float(), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return float32 (..., H) for (..., H)."""
        return F.layer_norm(rows.float(), self.shape, self.weight, self.bias, self.eps)


def widen_residuals(body: nn.Module) -> int:
    """Keep what flows past the products of a bfloat16 body in float32; return how many norms changed.

    Every norm then answers in float32 and so every sum is float32; prepacked products round what they read. Costs 8 %
    of the time and takes a quarter off the error of a cross-encoder's scores. Bodies with other products stay as is.
    """
    if any(type(module) is nn.Linear for module in body.modules()):
        return 0
    count = 0
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.LayerNorm:
                setattr(module, name, WideNorm(child))
                count += 1
    return count


def fuse_gelu(body: nn.Module) -> int:
    """Move the exact GELU of BERT's feed-forward into its prepacked product; return in how many layers."""
    from transformers.activations import GELUActivation

    count = 0
    for module in body.modules():
        dense, activation = getattr(module, "dense", None), getattr(module, "intermediate_act_fn", None)
        if (
            isinstance(dense, PrepackedLinear | Int8Linear)
            and isinstance(activation, GELUActivation)
            and dense.absorb_gelu()
        ):
            module.intermediate_act_fn = nn.Identity()
            count += 1
    return count
