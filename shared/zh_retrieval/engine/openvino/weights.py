"""The tensors of a checkpoint as constants of a graph, each used once, plain or rounded to int8.

Axes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from openvino import opset15 as op

from zh_retrieval.checkpoint.tensors import Stored
from zh_retrieval.checkpoint.weight_files import check_loaded, refuse_not_finite
from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.options import Quantization

_OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}  # names from before 2019


class Weights:
    """Gives a graph its constants, and knows in the end which tensors were missing, misshapen or left over.

    Args:
        tensors: What the folder holds.
        files: Where from, for messages.
        prefix: What the names of a body may have in front of them, with its point.
        quantization: What linear layers are rounded to; None keeps them.
    """

    def __init__(
        self, tensors: Mapping[str, Stored], files: list[Path], prefix: str, quantization: Quantization | None = None
    ) -> None:
        self._tensors = tensors
        self._files = files
        self._prefix = prefix
        self._quantization = quantization
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def array(self, name: str, *shape: int) -> np.ndarray:
        """Return a tensor in float32; zeros where it is missing or misshapen, which `check` then says."""
        return self._take(name, shape).float32()

    def table(self, name: str, *shape: int) -> Node:
        """Return a constant in float32, copied: what is looked up in later must not lie in a file that may change."""
        return op.constant(self.array(name, *shape))

    def stored(self, name: str, *shape: int) -> Stored:
        """Return a tensor as the checkpoint stores it; zeros where it is missing or misshapen."""
        return self._take(name, shape)

    def rows_of(self, name: str, places: Node, rows: int, width: int) -> Node:
        """Return the rows of a table at some places, float32 (..., width)."""
        return op.gather(self.table(name, rows, width), places, ops.numbers(0))

    def linear(self, names: str | list[str], outputs: int, inputs: int) -> Node:
        """Return the weight of a linear layer, (O, I), as the checkpoint stores it or rounded.

        Several names are stacked into one weight, each with `outputs` rows.
        """
        parts = [self._take(name, (outputs, inputs)) for name in ([names] if isinstance(names, str) else names)]
        return self._linear(parts)

    def part(self, name: str, shape: tuple[int, int], low: int, high: int) -> Node:
        """Return rows low to high of a linear layer's weight as one of its own."""
        return self._linear([self._take(name, shape).rows(low, high)])

    def _linear(self, parts: list[Stored]) -> Node:
        if self._quantization == "int8":
            return _rounded(np.concatenate([part.float32() for part in parts]))
        if len({part.dtype for part in parts}) > 1:
            parts = [Stored("F32", part.float32()) for part in parts]
        values = parts[0].values if len(parts) == 1 else np.concatenate([part.values for part in parts])
        return _constant(Stored(parts[0].dtype, values))

    def bias(self, names: str | list[str], outputs: int) -> Node:
        """Return the bias of a linear layer, (O,), stacked as its weight is."""
        return op.constant(
            np.concatenate([self.array(n, outputs) for n in ([names] if isinstance(names, str) else names)])
        )

    def _take(self, name: str, shape: tuple[int, ...]) -> Stored:
        found = next((known for known in self._names(name) if known in self._tensors), None)
        if found is None:
            self._missing.append(name)
        else:
            self._used.add(found)
            stored = self._tensors[found]
            if stored.shape == shape:
                return stored
            self._misshapen.append((name, stored.shape, shape))
        return Stored("F32", np.broadcast_to(np.float32(0), shape))

    def _names(self, name: str) -> list[str]:
        names = [name, *(name.replace(new, old) for new, old in _OLD.items() if name.endswith(new))]
        return [*names, *(self._prefix + each for each in names)]

    def check(self) -> None:
        """Check what was used, and that nothing else was there.

        Raises:
            CheckpointError: A tensor is missing, misshapen, left over or not finite.
        """
        report = {
            "missing_keys": self._missing,
            "mismatched_keys": self._misshapen,
            "unexpected_keys": self._tensors.keys() - self._used,
        }
        check_loaded(report, self._files[0].parent)
        for name in self._used:
            with np.errstate(over="ignore", invalid="ignore"):
                total = np.sum(self._tensors[name].float32(), dtype=np.float32)
            if not np.isfinite(total):
                refuse_not_finite(self._files, name, "float32")


def _constant(stored: Stored) -> Node:
    """Return a constant; float32 and float16 share the file's memory, and the plugin widens what is float16."""
    values = stored.values if stored.dtype == "F16" else stored.float32()
    constant = op.constant(np.ascontiguousarray(values), shared_memory=True)
    return op.convert(constant, "f32") if stored.dtype == "F16" else constant


def _rounded(weight: np.ndarray) -> Node:
    """Return an int8 constant with a scale for each row, which the plugin multiplies as it is."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-12) / 127  # (O, 1)
    rounded = np.rint(weight / scales).astype(np.int8)
    return op.multiply(op.convert(op.constant(rounded), "f32"), op.constant(scales.astype(np.float32)))
