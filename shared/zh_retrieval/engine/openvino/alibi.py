"""Attention with symmetric ALiBi, a block of queries at a time: a bias of all pairs of 8192 tokens has 3.2 GB.

Axes: B sequences of a batch, L tokens of the longest, N heads, D head size, R queries of a block.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset15 as op

from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.layers.slopes import slopes

_BLOCK = 256  # queries at a time: with 12 heads and 8192 keys their bias has 100 MB


def alibi_attention(q: Node, k: Node, v: Node, mask: Node, heads: int, head: int) -> Node:
    """Return attention whose logits get -slope * |i - j|, (B, N, L, D).

    Args:
        q: (B, N, L, D), or the first of these tokens only.
        k: (B, N, L, D).
        v: (B, N, L, D).
        mask: Added to the logits, (B, 1, 1, L).
        heads: N.
        head: D.
    """
    length, one = ops.size(q, 2), ops.numbers(1)
    count = op.divide(op.add(length, ops.numbers(_BLOCK - 1)), ops.numbers(_BLOCK))
    size = op.divide(op.subtract(op.add(length, count), one), count)  # R: all blocks are equal, so some rows are added
    added = op.subtract(op.multiply(count, size), length)
    ends = op.concat([ops.numbers(0, 0), added, ops.numbers(0)], 0)
    padded = op.pad(q, ops.numbers(0, 0, 0, 0), ends, "constant", ops.scalar(0))
    loop = op.loop(op.squeeze(count, ops.numbers(0)), op.constant(np.array(True)))
    inner, result = _block(heads, head)
    loop.set_function(inner)
    loop.set_special_body_ports([0, 1])
    for parameter, value in zip(inner.get_parameters()[1:], (size, padded, k, v, mask), strict=True):
        loop.set_invariant_input(parameter, value.output(0))
    blocks = loop.get_concatenated_slices(result.output(0), 0, 1, 1, -1, 0)  # (blocks, B, N, R, D)
    rows = op.reshape(op.transpose(blocks, ops.numbers(1, 2, 0, 3, 4)), ops.numbers(0, heads, -1, head), True)
    return op.slice(rows, ops.numbers(0), length, one, ops.numbers(2))


def _block(heads: int, head: int) -> tuple[ov.Model, Node]:
    """Return what one turn of the loop computes, for its number, R, all queries, keys, values and the mask."""
    number, size = op.parameter([], ov.Type.i32), op.parameter([1], ov.Type.i32)
    q, k, v = (op.parameter([-1, heads, -1, head], ov.Type.f32) for _ in range(3))
    mask = op.parameter([-1, 1, 1, -1], ov.Type.f32)
    start = op.multiply(number, size)
    end = op.add(start, size)
    step = op.constant(np.int32(1))
    rows = op.range(*(op.squeeze(place, ops.numbers(0)) for place in (start, end)), step, "f32")
    columns = op.convert(ops.span(ops.size(k, 2)), "f32")
    distance = op.abs(op.subtract(op.unsqueeze(rows, ops.numbers(1)), op.unsqueeze(columns, ops.numbers(0))))  # (R, L)
    slope = op.constant(-np.array(slopes(heads), dtype=np.float32)[None, :, None, None])
    bias = op.add(op.multiply(op.unsqueeze(distance, ops.numbers(0, 1)), slope), mask)  # (B, N, R, L)
    seen = ops.attention(op.slice(q, start, end, ops.numbers(1), ops.numbers(2)), k, v, bias)
    result = op.unsqueeze(seen, ops.numbers(0))
    return ops.model([result, op.constant(np.array(True))], [number, size, q, k, v, mask]), result
