"""GTE bodies as graphs: rotary positions, queries, keys and values of one matrix, a gated feed-forward.

Axes: B sequences of a batch, L tokens of the longest, H hidden, N heads, D head size, I feed-forward size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from openvino import opset15 as op

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.engine.openvino import encoders, ops
from zh_retrieval.engine.openvino.encoders import Dense, Sizes, norm
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.engine.openvino.rotary import turned, turns
from zh_retrieval.engine.openvino.weights.constants import Weights


def body(sizes: Sizes, weights: Weights, first: bool, typed: bool = False) -> tuple[Node, list[Node]]:
    """Return the last hidden states and the graph's inputs, as `encoders.body`."""
    ids, ends = ops.inputs(2 if typed else 1)
    lengths, second = (ops.rows(ends, 0, 1), ops.rows(ends, 1, 2)) if typed else (ends, None)
    mask = ops.padding_mask(ids, lengths)
    assert sizes.frequencies is not None  # a GTE's
    rope = turns(sizes.frequencies, sizes.positions, ops.numbers(0), ops.size(ids, 1))
    hidden = _embed(sizes, weights, ids, second)
    for number in range(sizes.layers):
        name = f"encoder.layer.{number}."
        q, k, v = _project(sizes, weights, name, hidden)
        q, k = turned(q, rope), turned(k, rope)
        if first and number == sizes.layers - 1:
            q, hidden = ops.rows(q, 0, 1, axis=2), ops.rows(hidden, 0, 1)
        hidden = _finish(sizes, weights, name, hidden, ops.merge_heads(ops.attention(q, k, v, mask)))
    return hidden, [ids, ends]


def as_published(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors under their makers' names: what transformers' own class saves begins with "gte."."""
    return {name.removeprefix("gte."): stored for name, stored in tensors.items()}


def _embed(sizes: Sizes, weights: Weights, ids: Node, second: Node | None) -> Node:
    table = weights.table("embeddings.word_embeddings.weight", sizes.vocab_size, sizes.hidden)
    rows = op.gather(table, ids, ops.numbers(0))
    if sizes.token_types:
        types = weights.array("embeddings.token_type_embeddings.weight", sizes.token_types, sizes.hidden)
        rows = op.add(rows, op.constant(types[0]))
        if second is not None:
            rows = op.add(rows, encoders.typed(ids, second, types))
    return norm(sizes, weights, "embeddings.LayerNorm", rows)


def _project(sizes: Sizes, weights: Weights, name: str, hidden: Node) -> tuple[Node, Node, Node]:
    """Return queries, keys and values, each (B, N, L, D)."""
    wide = Dense(weights, name)("attention.qkv_proj", hidden, 3 * sizes.hidden, sizes.hidden)
    q, k, v = (ops.split_heads(part, sizes.heads) for part in op.split(wide, op.constant(np.int32(2)), 3).outputs())
    return q, k, v


def _finish(sizes: Sizes, weights: Weights, name: str, hidden: Node, context: Node) -> Node:
    """Return a layer's output for its input and what attention says that it sees, both (B, L, H)."""
    dense = Dense(weights, name)
    out = dense("attention.o_proj", context, sizes.hidden, sizes.hidden)
    attended = norm(sizes, weights, name + "attn_ln", op.add(hidden, out))
    wide = ops.linear(
        attended, weights.linear(name + "mlp.up_gate_proj.weight", 2 * sizes.intermediate_size, sizes.hidden)
    )
    value, gate = op.split(wide, op.constant(np.int32(2)), 2).outputs()  # exact GELU on the second half
    narrow = dense("mlp.down_proj", op.multiply(op.gelu(gate, "ERF"), value), sizes.hidden, sizes.intermediate_size)
    return norm(sizes, weights, name + "mlp_ln", op.add(attended, narrow))
