"""JinaBERT's symmetric ALiBi as a mask, made once a pass for all layers.

Axes: L keys, R queries, N heads.
"""

from __future__ import annotations

import numpy as np
from openvino import opset15 as op

from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.layers.slopes import slopes

MOST = 1024
"""Tokens of a sequence up to which a mask of all pairs is made: 12 heads of it have 50 MB, of 8192 tokens 3.2 GB."""


def alibi_mask(keys: Node, heads: int, first: Node, queries: Node) -> Node:
    """Return what is added to the logits, float32 (1, N, R, L): -slope * |i - j|.

    Args:
        keys: L, (1,).
        heads: N.
        first: The place of the first query, (1,).
        queries: R, (1,).
    """
    seen = op.convert(ops.span(keys), "f32")
    seeing = op.convert(op.add(ops.span(queries), first), "f32")
    distance = op.abs(op.subtract(op.unsqueeze(seeing, ops.numbers(1)), op.unsqueeze(seen, ops.numbers(0))))  # (R, L)
    slope = op.constant(-np.array(slopes(heads), dtype=np.float32)[None, :, None, None])
    return op.multiply(op.unsqueeze(distance, ops.numbers(0, 1)), slope)
