"""Parts of a graph, as OpenVINO's operators: what every body is made of.

Axes: B sequences of a batch, L tokens of the longest, H hidden, N heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

Node = Any
"""A node of a graph; OpenVINO's own types do not say more."""

MASKED = -1e30
"""What is added to the logit of a token that is not seen: its weight is 0, and no sum of such is infinite."""

ACTIVATIONS: Mapping[str, Callable[[Node], Node]] = {
    "gelu": lambda x: op.gelu(x, "ERF"),
    "gelu_new": lambda x: op.gelu(x, "TANH"),
    "gelu_pytorch_tanh": lambda x: op.gelu(x, "TANH"),
    "relu": op.relu,
    "silu": op.swish,
}
"""The activations that config.json may name."""


def numbers(*values: int) -> Node:
    """Return a constant of whole numbers: axes, sizes."""
    return op.constant(np.array(values, dtype=np.int32))


def scalar(value: float) -> Node:
    """Return a float32 constant."""
    return op.constant(np.float32(value))


def inputs(ends: int = 1) -> tuple[Node, Node]:
    """Return what every graph begins with: `ids` int32 (B, L), right-padded with 0, and `lengths` int32 (B, 1).

    `ends` of 2 adds to each length where the second text begins: `lengths` is (B, 2).
    """
    return op.parameter([-1, -1], ov.Type.i32, "ids"), op.parameter([-1, ends], ov.Type.i32, "lengths")


def size(x: Node, axis: int) -> Node:
    """Return the size of an axis, int32 (1,)."""
    return op.gather(op.shape_of(x, "i32"), numbers(axis), numbers(0))


def span(length: Node) -> Node:
    """Return int32 (L,), 0 to L - 1, for a size."""
    return op.range(op.constant(np.int32(0)), op.squeeze(length, numbers(0)), op.constant(np.int32(1)), "i32")


def padding_mask(ids: Node, lengths: Node) -> Node:
    """Return float32 (B, 1, 1, L), added to logits: tokens beyond a sequence's length are not seen."""
    visible = op.less(op.unsqueeze(span(size(ids, 1)), numbers(0)), lengths)  # (B, L)
    return op.unsqueeze(op.select(visible, scalar(0), scalar(MASKED)), numbers(1, 2))


def rows(x: Node, low: int, high: int, axis: int = 1) -> Node:
    """Return x from low to high along an axis."""
    return op.slice(x, numbers(low), numbers(high), numbers(1), numbers(axis))


def slice_to(x: Node, high: Node, axis: int) -> Node:
    """Return x up to a size, int32 (1,), along an axis."""
    return op.slice(x, numbers(0), high, numbers(1), numbers(axis))


def linear(x: Node, weight: Node, bias: Node | None = None) -> Node:
    """Return x @ weight.T + bias; weight is (outputs, inputs): float32, compressed (`rounding`) or bfloat16."""
    if weight.get_element_type() == ov.Type.bf16:
        product = op.convert(op.matmul(op.convert(x, "bf16"), weight, False, True), "f32")
    else:
        product = op.matmul(x, weight, False, True)
    return product if bias is None else op.add(product, bias)


def layer_norm(x: Node, scale: Node, shift: Node, eps: float) -> Node:
    """Return x with mean 0 and variance 1 over its last axis, scaled and shifted."""
    return op.add(op.multiply(op.mvn(x, numbers(-1), True, eps, "INSIDE_SQRT"), scale), shift)


def rms_norm(x: Node, scale: Node, eps: float) -> Node:
    """Return x divided by the root of its mean square over the last axis, scaled."""
    mean = op.reduce_mean(op.power(x, scalar(2)), numbers(-1), True)
    return op.multiply(op.multiply(x, op.divide(scalar(1), op.sqrt(op.add(mean, scalar(eps))))), scale)


def split_heads(x: Node, heads: int) -> Node:
    """Return (B, N, L, D) for (B, L, N * D)."""
    return op.transpose(op.reshape(x, numbers(0, 0, heads, -1), True), numbers(0, 2, 1, 3))


def merge_heads(x: Node) -> Node:
    """Return (B, L, N * D) for (B, N, L, D)."""
    return op.reshape(op.transpose(x, numbers(0, 2, 1, 3)), numbers(0, 0, -1), True)


def attention(q: Node, k: Node, v: Node, mask: Node, scale: float | None = None) -> Node:
    """Return softmax(q k^T * scale + mask) v, (B, N, L, D); scale is 1/sqrt(D) by default."""
    if scale is None:
        return op.scaled_dot_product_attention(q, k, v, mask)
    return op.scaled_dot_product_attention(q, k, v, mask, scalar(scale))


def band_mask(length: Node, past: Node, window: int) -> Node:
    """Return float32 (1, 1, L, P + L), added to logits: a token sees `window` tokens, itself and those before it."""
    places = span(op.add(past, length))
    own = op.unsqueeze(op.add(span(length), past), numbers(1))
    back = op.subtract(own, op.unsqueeze(places, numbers(0)))  # (L, P + L)
    visible = op.logical_and(op.greater_equal(back, numbers(0)), op.less(back, numbers(window)))
    return op.unsqueeze(op.select(visible, scalar(0), scalar(MASKED)), numbers(0, 1))


def model(outputs: Sequence[Node], parameters: Sequence[Node]) -> ov.Model:
    """Return a graph; its inputs come in the order of `parameters`."""
    made: Any = ov.Model
    return made(list(outputs), list(parameters), "zh_retrieval")
