"""JinaBERT for texts whose mask of all pairs would need gigabytes: layer by layer, a block of queries at a time.

The graphs here are of one layer and take its weights as inputs, so that all layers share their memory.

Axes: L tokens of a text, H hidden, N heads, D head size, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op

from zh_retrieval.engine.openvino import encoders, ops
from zh_retrieval.engine.openvino.alibi import MOST, alibi_mask
from zh_retrieval.engine.openvino.encoders import Sizes
from zh_retrieval.engine.openvino.inference import Settings, abandon, compiled, infer
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.engine.openvino.readouts import Readout
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.sequence import Tokens

_PAIRS = 2**20  # of a query and a key at a time: the mask of 12 heads has 50 MB
_ROWS = 1024  # of a feed-forward at a time

Arrays = dict[str, np.ndarray]


class LongTexts:
    """Computes texts of more than `above` tokens, one after the other.

    Attributes:
        above: How many tokens a graph of the whole body takes.
    """

    above = MOST

    def __init__(self, sizes: Sizes, weights: Weights, readout: Readout, settings: Settings) -> None:
        """Keep what is needed; graphs are made when the first text comes.

        Args:
            sizes: The body's.
            weights: Its tensors, as the folder has them.
            readout: Hidden states to rows.
            settings: How to compute.
        """
        self._sizes = sizes
        self._weights = weights
        self._readout = readout
        self._settings = settings
        self._parts: tuple[_Part, _Part, _Part] | None = None

    def run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return float32 (R, width), rows in the order of `tokens`."""
        if self._parts is None:
            project, attend, finish = _project(self._sizes), _attend(self._sizes), _finish(self._sizes)
            for part in (project, attend, finish):
                part.compile(self._settings)
            self._parts = project, attend, finish
        try:
            rows = [self._readout(self._hidden(self._parts, item.ids)[None], [item]) for item in tokens]
        except Exception:
            self._parts = None  # what lacked memory may be half prepared
            raise
        return np.concatenate(rows)

    def renew(self) -> None:
        """Leave what the parent of a forked process compiled, as `OpenVinoEngine.renew`."""
        for part in self._parts or ():
            part.abandon()
        self._parts = None

    def _hidden(self, parts: tuple[_Part, _Part, _Part], ids: Sequence[int]) -> np.ndarray:
        """Return the last hidden states, float32 (L, H)."""
        project, attend, finish = parts
        hidden = self._embedded(ids)
        for number in range(self._sizes.layers):
            q, k, v = project(self._layer(project, number), hidden[None])
            context = np.empty_like(hidden)
            for low, high in _blocks(len(ids), max(1, _PAIRS // len(ids))):
                places = np.array([low], dtype=np.int32)
                (context[low:high],) = attend({}, np.ascontiguousarray(q[:, :, low:high]), k, v, places)[0]
            layer = self._layer(finish, number)
            for low, high in _blocks(len(ids), _ROWS):
                (hidden[low:high],) = finish(layer, hidden[None, low:high], context[None, low:high])[0]
        return hidden

    def _layer(self, part: _Part, number: int) -> Arrays:
        return {name: self._weights.array(f"encoder.layer.{number}.{name}", *shape) for name, shape in part.shapes}

    def _embedded(self, ids: Sequence[int]) -> np.ndarray:
        sizes, weights = self._sizes, self._weights
        words = weights.stored("embeddings.word_embeddings.weight", sizes.vocab_size, sizes.hidden)
        rows = words.taken(np.asarray(ids)).float32()
        rows = rows + weights.array("embeddings.token_type_embeddings.weight", sizes.token_types, sizes.hidden)[0]
        rows -= rows.mean(axis=1, keepdims=True)
        rows /= np.sqrt((rows * rows).mean(axis=1, keepdims=True) + sizes.eps)
        scale, shift = (weights.array(f"embeddings.LayerNorm.{part}", sizes.hidden) for part in ("weight", "bias"))
        normed: np.ndarray = rows * scale + shift
        return normed


class _Part:
    """A graph of a part of a layer. It is asked for inputs as `Weights` is for constants.

    Attributes:
        shapes: The weights that it takes, by their names in a layer.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        self._parameters: list[Node] = []
        self._model: Any = None
        self._request: Any = None

    def input(self, *shape: int, kind: Any = None) -> Node:
        """Return an input that is no weight; these come first."""
        return self._take(op.parameter(list(shape), kind or ov.Type.f32))

    def linear(self, name: str, outputs: int, inputs: int) -> Node:
        """Return the weight of a linear layer, (O, I)."""
        return self._weight(name, outputs, inputs)

    def bias(self, name: str, outputs: int) -> Node:
        """Return the bias of a linear layer, (O,)."""
        return self._weight(name, outputs)

    def table(self, name: str, *shape: int) -> Node:
        """Return a tensor."""
        return self._weight(name, *shape)

    def _weight(self, name: str, *shape: int) -> Node:
        self.shapes.append((name, shape))
        return self._take(op.parameter(list(shape), ov.Type.f32))

    def _take(self, node: Node) -> Node:
        self._parameters.append(node)
        return node

    def giving(self, *outputs: Node) -> _Part:
        """Return this, with its outputs."""
        self._model = ops.model(outputs, self._parameters)
        return self

    def compile(self, settings: Settings) -> None:
        """Make it ready to compute."""
        self._request = compiled(self._model, settings)

    def abandon(self) -> None:
        """See `zh_retrieval.engine.openvino.inference.abandon`."""
        abandon(self._request)

    def __call__(self, weights: Arrays, *inputs: np.ndarray) -> list[np.ndarray]:
        """Return the outputs, in memory that the next call writes over."""
        given = [np.ascontiguousarray(values) for values in (*inputs, *(weights[name] for name, _ in self.shapes))]
        return infer(self._request, given, [(-2, inputs[0].shape[-2])] * len(self._model.outputs))


def _project(sizes: Sizes) -> _Part:
    """Return hidden states (1, L, H) -> queries, keys and values, each (1, N, L, D)."""
    part = _Part()
    hidden = part.input(1, -1, sizes.hidden)
    return part.giving(*encoders.project(sizes, part, "", hidden, hidden))


def _attend(sizes: Sizes) -> _Part:
    """Return queries (1, N, R, D), keys and values (1, N, L, D), the first query's place -> (1, R, H)."""
    part, head = _Part(), sizes.hidden // sizes.heads
    q, k, v = (part.input(1, sizes.heads, -1, head) for _ in range(3))
    low = part.input(1, kind=ov.Type.i32)
    mask = alibi_mask(ops.size(k, 2), sizes.heads, low, ops.size(q, 2))
    return part.giving(ops.merge_heads(ops.attention(q, k, v, mask)))


def _finish(sizes: Sizes) -> _Part:
    """Return hidden states and what they see, both (1, R, H) -> the layer's output, (1, R, H)."""
    part = _Part()
    hidden, context = part.input(1, -1, sizes.hidden), part.input(1, -1, sizes.hidden)
    return part.giving(encoders.finish(sizes, part, "", hidden, context))


def _blocks(length: int, size: int) -> Iterator[tuple[int, int]]:
    for low in range(0, length, size):
        yield low, min(low + size, length)
