"""Weights rounded to fewer bits, a few million numbers at a time, as constants that OpenVINO multiplies as they are.

Axes: O outputs, I inputs of a linear layer, G inputs of a group that shares a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset15 as op

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.engine.openvino.ops import Node, numbers

Kind = Literal["bfloat16", "int8-rows", "int8-256", "int8", "int4"]
"""bfloat16; int8 with a scale for each row, for 256 inputs, or for 128; int4 with a scale for 128 inputs."""

_GROUPS = (128, 64, 32)  # inputs that share a scale: the most that divide a row
_BLOCK = 300_000  # numbers at a time: what a core's cache holds
_TYPES: dict[Kind, type[np.generic]] = {
    "bfloat16": np.uint16, "int8-rows": np.int8, "int8-256": np.int8, "int8": np.int8, "int4": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """How a weight (O, I) is rounded.

    Attributes:
        kind: To what.
        outputs: O.
        inputs: I.
        group: G; I where a row has one scale.
    """

    kind: Kind
    outputs: int
    inputs: int
    group: int

    @staticmethod
    def of(kind: Kind, outputs: int, inputs: int) -> Form:
        """Return the form; a row that no group divides is rounded as a whole, and to int8 if it were int4."""
        if kind in ("bfloat16", "int8-rows"):
            return Form(kind, outputs, inputs, inputs)
        sizes = (256, *_GROUPS) if kind == "int8-256" else _GROUPS
        group = next((size for size in sizes if inputs % size == 0), None)
        return Form("int8-rows", outputs, inputs, inputs) if group is None else Form(kind, outputs, inputs, group)

    def arrays(self) -> list[tuple[type[np.generic], tuple[int, int]]]:
        """Return dtype and shape of the codes, and of the scales if there are any."""
        width = self.inputs // 2 if self.kind == "int4" else self.inputs
        codes = (_TYPES[self.kind], (self.outputs, width))
        return [codes] if self.kind == "bfloat16" else [codes, (np.float32, (self.outputs, self.inputs // self.group))]


def blocks(stored: Stored, form: Form) -> Iterator[list[np.ndarray]]:
    """Yield codes and scales, as `Form.arrays` says, of some rows after the others; NaN and Inf make such scales."""
    step = max(1, _BLOCK // form.inputs)
    for low in range(0, form.outputs, step):
        values = stored.rows(low, low + step).float32()
        yield [_bfloat16(values)] if form.kind == "bfloat16" else list(_rounded(values, form))


def _rounded(values: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    groups = values.reshape(-1, form.group)
    with np.errstate(invalid="ignore", over="ignore"):
        if form.kind != "int4":
            scales = np.maximum(np.maximum(groups.max(1), -groups.min(1)), 1e-12) / 127
            codes = np.rint(groups * (1 / scales)[:, None]).astype(np.int8)
        else:
            high, low = groups.max(1), groups.min(1)
            scales = np.where(high > -low, high, low) / -8  # the number farthest from 0 is -8 steps, of 16 the one more
            scales[np.abs(scales) < 1e-12] = 1e-12
            signed = np.clip(np.rint(groups * (1 / scales)[:, None]), -8, 7).astype(np.int8).view(np.uint8) & 15
            codes = signed[:, ::2] | (signed[:, 1::2] << 4)
    return codes.reshape(len(values), -1), scales.astype(np.float32).reshape(len(values), -1)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded


def is_finite(arrays: list[np.ndarray]) -> bool:
    """Return True if what was rounded held no NaN or Inf."""
    last = arrays[-1]
    if last.dtype == np.uint16:
        return not bool(((last & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(last).all())


def constant(arrays: list[np.ndarray], form: Form) -> Node:
    """Return the weight as a node, (O, I): bfloat16, or float32 by a Convert and a Multiply that the plugin fuses.

    The memory is shared, and must live for as long as what is compiled of the node.
    """
    if form.kind == "bfloat16":
        return _typed(arrays[0], (form.outputs, form.inputs), ov.Type.bf16)
    if form.kind == "int8-rows":
        return op.multiply(op.convert(op.constant(arrays[0], shared_memory=True), "f32"), op.constant(arrays[1]))
    shape = (form.outputs, form.inputs // form.group, form.group)
    codes = _typed(arrays[0], shape, ov.Type.i4 if form.kind == "int4" else ov.Type.i8)
    scaled = op.multiply(op.convert(codes, "f32"), op.constant(arrays[1][..., None]))
    return op.reshape(scaled, numbers(form.outputs, form.inputs), False)


def rows_of(arrays: list[np.ndarray], form: Form, places: Node) -> Node:
    """Return some rows of a table, float32 (..., I), without making the others float32; int8 and bfloat16 only."""
    if form.kind == "bfloat16":
        table = _typed(arrays[0], (form.outputs, form.inputs), ov.Type.bf16)
        return op.convert(op.gather(table, places, numbers(0)), "f32")
    count = form.inputs // form.group
    codes = _typed(arrays[0], (form.outputs, count, form.group), ov.Type.i8)
    found = op.convert(op.gather(codes, places, numbers(0)), "f32")
    scales = op.gather(op.constant(arrays[1][..., None]), places, numbers(0))
    return op.reshape(op.multiply(found, scales), numbers(0, 0, form.inputs), True)


def _typed(array: np.ndarray, shape: tuple[int, ...], kind: ov.Type) -> Node:
    made: Node = ov.op.Constant(ov.Tensor(array, ov.Shape(list(shape)), kind), shared_memory=True)
    return made
