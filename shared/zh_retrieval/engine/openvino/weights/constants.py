"""The tensors of a checkpoint as constants of a graph, each used once, plain or rounded to int8.

Axes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from openvino import opset15 as op

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.checkpoint.weight_files import check_loaded, refuse_not_finite
from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.engine.openvino.weights import rounding
from zh_retrieval.engine.openvino.weights.kept import RoundedWeights
from zh_retrieval.engine.openvino.weights.rounding import Form, Kind

Copies = Literal["all", "tables", "nothing"]
"""What of the unrounded is copied: all, what is looked up in at every text, or nothing (what cannot change)."""

_BLOCK = 4_000_000  # numbers at a time
_OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}  # names from before 2019


class Weights:
    """Gives a graph its constants, and knows in the end which tensors were missing, misshapen or left over.

    It holds memory that the constants share, and must live for as long as what is compiled of the graph.

    Args:
        tensors: What the folder holds.
        files: Where from, for messages.
        prefix: What the names of a body may have in front of them, with its point.
        kind: What linear layers are rounded to; None keeps them.
        rounded: Where the rounded ones are.
        copies: What is copied, so that nobody who writes a file again changes it; the rest shares the tensors' memory.
    """

    def __init__(
        self,
        tensors: Mapping[str, Stored],
        files: list[Path],
        prefix: str,
        kind: Kind | None = None,
        rounded: RoundedWeights | None = None,
        *,
        copies: Copies = "all",
    ) -> None:
        self._tensors = tensors
        self._files = files
        self._prefix = prefix
        self._kind: Kind | None = kind
        self._rounded = rounded or RoundedWeights()
        self._copies: Copies = copies
        self._used: set[str] = set()
        self._alive: list[np.ndarray] = []
        self._judged: set[str] = set()  # names of tensors whose numbers were looked at when they were rounded
        self._missing: list[str] = []
        self._misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def array(self, name: str, *shape: int) -> np.ndarray:
        """Return a tensor in float32; zeros where it is missing or misshapen, which `check` then says."""
        return self._take(name, shape).float32()

    def table(self, name: str, *shape: int) -> Node:
        """Return a constant in float32."""
        return op.constant(self._hold(self.array(name, *shape), copied=self._copies != "nothing"), shared_memory=True)

    def pass_over(self, layer: str) -> None:
        """Know the tensors of a layer that another part reads, if it reads them at all."""
        self._used |= {name for name in self._tensors if name.startswith(f"{layer}.")}

    def stored(self, name: str, *shape: int) -> Stored:
        """Return a tensor as the checkpoint stores it; zeros where it is missing or misshapen."""
        return self._take(name, shape)

    def rows_of(self, name: str, places: Node, rows: int, width: int) -> Node:
        """Return the rows of a table at some places, float32 (..., width); a table is not rounded to less than int8."""
        if self._kind is None:
            return op.gather(self.table(name, rows, width), places, ops.numbers(0))
        form = Form.of(_at_least_int8(self._kind), rows, width)
        arrays = self._round(name, "rows", self._take(name, (rows, width)), form, copied=self._copies != "nothing")
        return rounding.rows_of(arrays, form, places)

    def linear(self, name: str, outputs: int, inputs: int) -> Node:
        """Return the weight of a linear layer, (O, I), as the checkpoint stores it or rounded."""
        return self._linear(name, self._take(name, (outputs, inputs)), "", self._kind)

    def head(self, name: str, shape: tuple[int, int], low: int, high: int) -> Node:
        """Return rows low to high of a language model's head, as `linear`, but not rounded to less than int8."""
        kind = None if self._kind is None else _at_least_int8(self._kind)
        return self._linear(name, self._take(name, shape).rows(low, high), f"from {low}", kind)

    def _linear(self, name: str, stored: Stored, what: str, kind: Kind | None) -> Node:
        if kind is None:
            return self._constant(stored)
        outputs, inputs = stored.shape
        form = Form.of(kind, outputs, inputs)
        return rounding.constant(self._round(name, what, stored, form, copied=self._copies == "all"), form)

    def _round(self, name: str, what: str, stored: Stored, form: Form, *, copied: bool) -> list[np.ndarray]:
        """Return what a tensor, or a part of it, is rounded to; what is so already may share its memory."""
        if form.kind == "bfloat16" and stored.dtype == "BF16":
            return [self._hold(stored.values, copied=copied)]
        self._judged.add(name)
        return self._rounded.take(f"{name} {what}", stored, form)

    def _constant(self, stored: Stored) -> Node:
        """Return a constant in float32, or in float16 that the plugin widens."""
        values = stored.values if stored.dtype == "F16" else stored.float32()
        values = self._hold(values, copied=self._copies == "all")
        constant = op.constant(values, shared_memory=True)
        return op.convert(constant, "f32") if stored.dtype == "F16" else constant

    def _hold(self, values: np.ndarray, *, copied: bool) -> np.ndarray:
        """Return an array of memory that lives as long as this does; of its own, if that is asked for."""
        values = np.require(values, requirements=["C", "O"] if copied else ["C"])
        self._alive.append(values)
        return values

    def bias(self, name: str, outputs: int) -> Node:
        """Return the bias of a linear layer, (O,)."""
        return self.table(name, outputs)

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
        judged = {known for name in self._judged for known in self._names(name)}
        faulty = [name.partition(" ")[0] for name in self._rounded.not_finite]
        faulty += [name for name in self._used - judged if not _is_finite(self._tensors[name])]
        if faulty:
            refuse_not_finite(self._files, faulty[0], "float32")
        self._tensors = {}


def _at_least_int8(kind: Kind) -> Kind:
    return "int8" if kind == "int4" else kind


def _is_finite(stored: Stored) -> bool:
    """Return True if no number is NaN or Inf; a few million of them are looked at at a time."""
    rows = len(stored.values) if stored.shape else 0
    step = max(1, _BLOCK * rows // max(1, stored.values.size))
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [stored.rows(low, low + step) for low in range(0, rows, step)] or [stored]
        return all(np.isfinite(np.sum(part.float32(), dtype=np.float32)) for part in parts)
