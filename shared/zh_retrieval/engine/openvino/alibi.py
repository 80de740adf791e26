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

    Distances are whole until the last step: where the plugin computes in bfloat16, whole numbers that are floats
    are exact up to 256 only, and the difference of two rounded positions is far from the distance.

    Args:
        keys: L, (1,).
        heads: N.
        first: The place of the first query, (1,).
        queries: R, (1,).
    """
    key_places, query_places = ops.span(keys), op.add(ops.span(queries), first)
    distance = op.abs(
        op.subtract(op.unsqueeze(query_places, ops.numbers(1)), op.unsqueeze(key_places, ops.numbers(0)))
    )  # (R, L)
    slope = op.constant(-np.array(slopes(heads), dtype=np.float32)[None, :, None, None])
    return op.multiply(op.unsqueeze(op.convert(distance, "f32"), ops.numbers(0, 1)), slope)
