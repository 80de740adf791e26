"""Rotary positions in a graph: pairs of a head's numbers turned by an angle that grows with the position.

Axes: B sequences of a batch, N heads, L tokens, D head size.
"""

from __future__ import annotations

import numpy as np
from openvino import opset15 as op

from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.ops import Node


def turns(frequencies: np.ndarray, limit: int, low: Node, high: Node) -> tuple[Node, Node]:
    """Return cosine and sine of the angles of positions low to high, float32 (L, D / 2) each.

    Args:
        frequencies: Radians per position, float32 (D / 2,).
        limit: How many positions there are.
        low: int32 (1,).
        high: int32 (1,).
    """
    angles = np.arange(limit, dtype=np.float32)[:, None] * frequencies  # as transformers rounds
    cosine, sine = (
        op.slice(op.constant(table.astype(np.float32)), low, high, ops.numbers(1), ops.numbers(0))
        for table in (np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64)))
    )
    return cosine, sine


def turned(x: Node, by: tuple[Node, Node]) -> Node:
    """Return heads (B, N, L, D) with their rotary positions."""
    cosine, sine = by
    left, right = op.split(x, op.constant(np.int32(3)), 2).outputs()
    return op.concat(
        [
            op.subtract(op.multiply(left, cosine), op.multiply(right, sine)),
            op.add(op.multiply(right, cosine), op.multiply(left, sine)),
        ],
        3,
    )
