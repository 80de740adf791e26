"""BERT, XLM-R and JinaBERT bodies as graphs, and the sizes of all encoders.

Axes: B sequences of a batch, L tokens of the longest, H hidden, N heads, I feed-forward size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from openvino import opset15 as op

from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.alibi import alibi_mask
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.models import kind
from zh_retrieval.models.gte_config import gte_sizes
from zh_retrieval.models.jina_config import jina_sizes


class LayerWeights(Protocol):
    """Where a layer's weights come from: constants, or inputs of its graph."""

    def linear(self, name: str, outputs: int, inputs: int) -> Node:
        """Return the weight of a linear layer, (O, I)."""
        ...

    def bias(self, name: str, outputs: int) -> Node:
        """Return the bias of a linear layer, (O,)."""
        ...

    def table(self, name: str, *shape: int) -> Node:
        """Return a tensor."""
        ...


_USUAL = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "max_position_embeddings": 512}
_PREFIXES = {"xlm-roberta": "roberta.", "gte": "new."}
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What config.json says of an encoder.

    Attributes:
        vocab_size: Rows of the word embeddings.
        hidden: Hidden size.
        layers: How many.
        heads: Of a layer.
        intermediate_size: Feed-forward size.
        positions: Rows of the position embeddings.
        token_types: Rows of the token type embeddings; GTE may have none.
        eps: Of the norms.
        activation: Of the feed-forward.
        offset: The position of the first token.
        prefix: What published checkpoints put before the names of the body's tensors.
        alibi: JinaBERT: distances in place of position embeddings, and a gated feed-forward.
        frequencies: GTE, whose graph is `gte.body`: radians per position of each pair of a head's numbers, float32
            (D / 2,). None: no rotary positions.
    """

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    intermediate_size: int
    positions: int
    token_types: int
    eps: float
    activation: str
    offset: int
    prefix: str
    alibi: bool
    frequencies: np.ndarray | None = None

    @property
    def limit(self) -> int:
        """Return the most tokens of one sequence."""
        return self.positions - self.offset

    @staticmethod
    def of(config: Mapping[str, Any]) -> Sizes:
        """Return the sizes of a config.json that `has_graph`; what it leaves out is what transformers assumes.

        Raises:
            CheckpointError: It is of another JinaBERT than the one with ALiBi and GEGLU, or of another GTE.
        """
        what = kind(config)
        read = {"jina-bert": jina_sizes, "gte": gte_sizes}.get(what)
        given: dict[str, Any] = {**_USUAL, **(read(config) if read else config)}
        pad, turning = given.get("pad_token_id", 1), given.get("frequencies")
        return Sizes(
            given["vocab_size"], given["hidden_size"], given["num_hidden_layers"], given["num_attention_heads"],
            given["intermediate_size"], given["max_position_embeddings"], given["type_vocab_size"],
            given["layer_norm_eps"], given["hidden_act"],
            (1 if pad is None else int(pad)) + 1 if what == "xlm-roberta" else 0,
            _PREFIXES.get(what, "bert."), what == "jina-bert",
            None if turning is None else np.array(turning, dtype=np.float32),
        )  # fmt: skip


def has_graph(config: Mapping[str, Any]) -> bool:
    """Return True if a graph computes what a config.json of an encoder describes."""
    if kind(config) in ("jina-bert", "gte"):
        return True  # of another variant nothing is computed: `Sizes.of` says so
    return (
        all(config.get(name) for name in _NEEDED)
        and config.get("hidden_act", "gelu") in ops.ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


def body(sizes: Sizes, weights: Weights, first: bool, typed: bool = False) -> tuple[Node, list[Node]]:
    """Return the last hidden states, float32 (B, L, H), and the graph's inputs.

    Args:
        sizes: The body's.
        weights: Its tensors.
        first: Compute the last layer for the first token alone, whose row is all that is read: (B, 1, H).
        typed: The tokens of a second text have the type 1; `lengths` is (B, 2) and says where it begins.
    """
    ids, ends = ops.inputs(2 if typed else 1)
    lengths, second = (ops.rows(ends, 0, 1), ops.rows(ends, 1, 2)) if typed else (ends, None)
    mask = ops.padding_mask(ids, lengths)
    if sizes.alibi:
        length = ops.size(ids, 1)
        mask = op.add(alibi_mask(length, sizes.heads, ops.numbers(0), length), mask)  # (B, N, L, L)
    hidden = _embed(sizes, weights, ids, second)
    for number in range(sizes.layers):
        queries = hidden
        if first and number == sizes.layers - 1:
            queries, mask = ops.rows(hidden, 0, 1), ops.rows(mask, 0, 1, axis=2)
        name = f"encoder.layer.{number}."
        q, k, v = project(sizes, weights, name, queries, hidden)
        hidden = finish(sizes, weights, name, queries, ops.merge_heads(ops.attention(q, k, v, mask)))
    return hidden, [ids, ends]


def _embed(sizes: Sizes, weights: Weights, ids: Node, second: Node | None) -> Node:
    words = op.gather(
        weights.table("embeddings.word_embeddings.weight", sizes.vocab_size, sizes.hidden), ids, ops.numbers(0)
    )
    token_types = weights.array("embeddings.token_type_embeddings.weight", sizes.token_types, sizes.hidden)
    if sizes.alibi:
        return norm(sizes, weights, "embeddings.LayerNorm", op.add(words, op.constant(token_types[0])))
    table = weights.array("embeddings.position_embeddings.weight", sizes.positions, sizes.hidden)
    usable = op.constant(table[sizes.offset :] + token_types[0])
    positions = op.slice(usable, ops.numbers(0), ops.size(ids, 1), ops.numbers(1), ops.numbers(0))
    if second is not None:
        words = op.add(words, typed(ids, second, token_types))
    return norm(sizes, weights, "embeddings.LayerNorm", op.add(words, positions))


def typed(ids: Node, second: Node, token_types: np.ndarray) -> Node:
    """Return by how much the token type embeddings of (B, L) tokens differ from type 0's, float32 (B, L, H).

    Args:
        ids: int32 (B, L).
        second: int32 (B, 1): where the second text begins, whose tokens have the type 1.
        token_types: float32 (2 or more, H).
    """
    places = op.unsqueeze(ops.span(ops.size(ids, 1)), ops.numbers(0))
    types = op.convert(op.greater_equal(places, second), "i32")  # (B, L)
    return op.gather(op.constant(token_types[:2] - token_types[0]), types, ops.numbers(0))


HEADS: Mapping[str, tuple[str, str]] = {
    "bert": ("pooler.dense", "classifier"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
    "gte": ("pooler.dense", "classifier"),
}
"""The two layers of a classification head in transformers' own class, tanh between them; by the kind of config.json."""


def project(sizes: Sizes, weights: LayerWeights, name: str, queries: Node, hidden: Node) -> tuple[Node, Node, Node]:
    """Return queries of `queries`, keys and values of `hidden`, each (B, N, L, D), for the layer of a name."""
    dense = Dense(weights, name)
    q, k, v = (
        ops.split_heads(dense(f"attention.self.{part}", rows, sizes.hidden, sizes.hidden), sizes.heads)
        for part, rows in (("query", queries), ("key", hidden), ("value", hidden))
    )
    return q, k, v


def finish(sizes: Sizes, weights: LayerWeights, name: str, queries: Node, context: Node) -> Node:
    """Return a layer's output for `queries`, its input, and for what attention says that they see, both (B, L, H)."""
    out = Dense(weights, name)("attention.output.dense", context, sizes.hidden, sizes.hidden)
    attended = norm(sizes, weights, name + "attention.output.LayerNorm", op.add(queries, out))
    return (_gated if sizes.alibi else _plain)(sizes, weights, name, attended)


def _plain(sizes: Sizes, weights: LayerWeights, name: str, attended: Node) -> Node:
    """Return BERT's feed-forward, normalised."""
    dense = Dense(weights, name)
    activated = ops.ACTIVATIONS[sizes.activation](
        dense("intermediate.dense", attended, sizes.intermediate_size, sizes.hidden)
    )
    narrow = dense("output.dense", activated, sizes.hidden, sizes.intermediate_size)
    return norm(sizes, weights, name + "output.LayerNorm", op.add(attended, narrow))


def _gated(sizes: Sizes, weights: LayerWeights, name: str, attended: Node) -> Node:
    """Return JinaBERT's feed-forward, normalised: exact GELU on the first half of what is wide times the second."""
    gates = weights.linear(name + "mlp.gated_layers.weight", 2 * sizes.intermediate_size, sizes.hidden)
    gate, value = op.split(ops.linear(attended, gates), op.constant(np.int32(2)), 2).outputs()
    narrow = Dense(weights, name)(
        "mlp.wo", op.multiply(op.gelu(gate, "ERF"), value), sizes.hidden, sizes.intermediate_size
    )
    return norm(sizes, weights, name + "mlp.layernorm", op.add(attended, narrow))


@dataclass(frozen=True, slots=True)
class Dense:
    """The linear layers of one layer, by their names in it."""

    weights: LayerWeights
    layer: str

    def __call__(self, name: str, x: Node, outputs: int, inputs: int) -> Node:
        """Return what a linear layer with a bias makes of x."""
        weight = self.weights.linear(f"{self.layer}{name}.weight", outputs, inputs)
        return ops.linear(x, weight, self.weights.bias(f"{self.layer}{name}.bias", outputs))


def norm(sizes: Sizes, weights: LayerWeights, name: str, x: Node) -> Node:
    """Return x normalised by the layer norm of a name."""
    scale, shift = (weights.table(f"{name}.{part}", sizes.hidden) for part in ("weight", "bias"))
    return ops.layer_norm(x, scale, shift, sizes.eps)
