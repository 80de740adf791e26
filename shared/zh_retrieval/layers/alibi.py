"""Attention with symmetric ALiBi, packed: logits get -slope * |i - j| (Press et al. 2022; Jina's bidirectional form).

Axes: N heads, T tokens of all sequences, L tokens of one, D head size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import library

from zh_retrieval.layers.attention import attend_masked
from zh_retrieval.layers.masks import same_sequence
from zh_retrieval.layers.memory import is_out_of_memory
from zh_retrieval.layers.packing import Layout, to_device
from zh_retrieval.layers.runs import Run, group
from zh_retrieval.layers.slopes import slopes

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

logger = logging.getLogger(__name__)

_BLOCK_ELEMENTS = 12 * 128 * 8192  # bias elements that exist at once: 50 MB in float32
_FLEX_LENGTH = 1024  # tokens from which CUDA uses flex_attention: a shorter bias is cheap
_FLEX_RUNS = 4  # different lengths from which it does: otherwise each layer starts a few kernels for each length
_FLEX_BLOCK = 128  # tokens of a block that is computed or skipped as a whole


@lru_cache(maxsize=8)
def slope_tensor(heads: int, device: torch.device) -> torch.Tensor:
    """Return float32 (N,), the slope of each head on the device; copied there once."""
    return torch.tensor(slopes(heads), dtype=torch.float32, device=device)


def alibi_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Layout, flex: Flex | None = None
) -> torch.Tensor:
    """Return attention within each sequence of the packed row, (T, N, D).

    Args:
        q: (T, N, D).
        k: (T, N, D).
        v: (T, N, D).
        packed: Where the sequences lie.
        flex: What computes long and mixed sequences; None is the one of this process.
    """
    if torch.compiler.is_compiling():
        out: torch.Tensor = _attend_opaque(q, k, v, packed.bounds(q.device))
        return out
    slope = slope_tensor(q.shape[1], q.device)
    flexed = (flex or _FLEX).attend(q, k, v, packed, slope)
    if flexed is not None:
        return flexed
    if packed.runs:
        return _attend_runs(q, k, v, packed.runs, slope)
    bias = _bias(q.shape[0], 0, q.shape[0], slope)[0]
    apart = ~same_sequence(packed.bounds(q.device), q.shape[0])
    return attend_masked(q, k, v, bias.masked_fill_(apart, -torch.inf).to(q.dtype))


def _attend_runs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Sequence[Run], slope: torch.Tensor
) -> torch.Tensor:
    """SDPA with a bias that never exists as a whole: it is made for a block of queries at a time."""
    out = torch.empty_like(q)
    heads, size_of_head = q.shape[1], q.shape[2]
    for start, size, length, _ in runs:
        rows = slice(start, start + size * length)
        sq, sk, sv = (t[rows].view(size, length, heads, size_of_head).transpose(1, 2) for t in (q, k, v))
        target = out[rows].view(size, length, heads, size_of_head)
        step = max(1, min(length, _BLOCK_ELEMENTS // (heads * length)))
        for low in range(0, length, step):
            bias = _bias(length, low, min(low + step, length), slope).to(q.dtype)  # (1, N, step, L)
            block = F.scaled_dot_product_attention(sq[:, :, low : low + step], sk, sv, attn_mask=bias)
            target[:, low : low + step].copy_(block.transpose(1, 2))
    return out


@library.custom_op("zh_retrieval::attend_alibi", mutates_args=())
def _attend_opaque(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """`alibi_attention` as one operator for torch.compile, which would otherwise compile anew for all other lengths."""
    lengths = cu_seqlens.diff().tolist()
    layout = Layout(tuple(lengths), (), group(lengths), cu_seqlens, max(lengths))
    return alibi_attention(q, k, v, layout)


@_attend_opaque.register_fake
def _(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(q)


def _bias(length: int, low: int, high: int, slope: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(length, device=slope.device, dtype=torch.float32)
    distance = (positions[low:high, None] - positions[None, :]).abs()
    return (distance * -slope[:, None, None]).unsqueeze(0)


class Flex:
    """flex_attention on each device where it helps, until it fails there.

    It is compiled for the shapes it meets, so it may fail at any call: no C compiler, no Triton, too little shared
    memory for a head. The call and all later ones then go on without it.
    """

    def __init__(self, function: Callable[[], Any] | None = None) -> None:
        self._function = function or compiled_flex
        self._failed: set[torch.device] = set()

    def suits(self, packed: Layout, device: torch.device) -> bool:
        """Return True where it is quicker than a bias for each length."""
        return device.type == "cuda" and (packed.longest >= _FLEX_LENGTH or len(packed.runs) >= _FLEX_RUNS)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Layout, slope: torch.Tensor
    ) -> torch.Tensor | None:
        """Return what `alibi_attention` returns, or None where it does not suit or does not work."""
        if q.device in self._failed or not self.suits(packed, q.device):
            return None
        key = ("blocks", q.device)  # the same for every layer on the device
        try:
            if key not in packed.cache:
                packed.cache[key] = document_blocks(packed.lengths, q.device)
            return attend_flex(q, k, v, packed.cache[key], slope, self._function())
        except Exception as error:  # compilers raise classes of their own
            if is_out_of_memory(error):
                raise
            self._failed.add(q.device)
            logger.warning("flex_attention cannot be compiled here, mixed and long texts take longer: %s", error)
            return None


def document_blocks(lengths: Sequence[int], device: torch.device) -> BlockMask:
    """Return the block mask of tokens that see their own sequence; made from the lengths, never as (T, T)."""
    from torch.nn.attention.flex_attention import BlockMask

    *starts, total = accumulate(lengths, initial=0)
    count = -(-total // _FLEX_BLOCK)
    first, last = [count] * count, [0] * count  # blocks of keys that a block of queries sees
    for start, length in zip(starts, lengths, strict=True):
        low, high = start // _FLEX_BLOCK, (start + length - 1) // _FLEX_BLOCK
        for block in range(low, high + 1):
            first[block], last[block] = min(first[block], low), max(last[block], high)
    low_blocks, high_blocks = (torch.tensor(each, dtype=torch.int32, device="cpu") for each in (first, last))
    seen = high_blocks - low_blocks + 1  # (Q,)
    places = torch.arange(count, dtype=torch.int32, device="cpu")
    indices = (low_blocks[:, None] + places).clamp(max=count - 1)  # (Q, K)
    numbers, sizes = torch.arange(len(lengths), device="cpu"), torch.tensor(lengths, dtype=torch.int64, device="cpu")
    owner = torch.repeat_interleave(numbers, sizes)  # (T,)
    seen, indices, owner = (to_device(tensor, device) for tensor in (seen, indices, owner))

    def same(_: Any, __: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return owner[i] == owner[j]

    return BlockMask.from_kv_blocks(
        seen[None, None], indices[None, None], BLOCK_SIZE=_FLEX_BLOCK, mask_mod=same, seq_lengths=(total, total)
    )


@lru_cache(maxsize=1)
def compiled_flex() -> Any:
    """Return flex_attention, compiled when first called."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def attend_flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: BlockMask, slope: torch.Tensor, function: Any
) -> torch.Tensor:
    """Return what `alibi_attention` returns, computed by flex_attention, compiled or not."""

    def add_alibi(score: torch.Tensor, _: Any, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return score - slope[head] * (i - j).abs()

    rows = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)]  # (1, N, T, D)
    out: torch.Tensor = function(*rows, score_mod=add_alibi, block_mask=blocks)
    return out[0].transpose(0, 1)


_FLEX = Flex()
