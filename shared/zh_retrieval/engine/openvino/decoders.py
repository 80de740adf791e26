"""Mistral, LLaMA, Qwen2, Qwen3 and Qwen-1 bodies as graphs, and what is read from them.

Right padding needs no mask of its own: a token sees none that come after it. What all sequences of a batch begin with
may be left out of them: its keys and values come in as `past`, and go out of a pass that computes it alone.
Axes: B sequences of a batch, L tokens of the longest, P tokens of the past, R rows that are read, H hidden, N heads,
K heads of keys and values, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset15 as op

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.decoder_sizes import DecoderSizes
from zh_retrieval.engine.openvino.ops import Node
from zh_retrieval.engine.openvino.rotary import turned, turns
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.models.qwen1 import qwen2_names

_WORDS = 32768  # logits of a row at a time


class Decoder:
    """The graph of a body, layer by layer; every weight is taken once.

    Args:
        sizes: The body's.
        weights: Its tensors.
        limit: The most tokens of one sequence.
    """

    def __init__(self, sizes: DecoderSizes, weights: Weights, limit: int) -> None:
        self._sizes = sizes
        self._weights = weights
        self._limit = limit
        self._head = "embed_tokens.weight" if sizes.tied else "lm_head.weight"
        self.past = op.parameter([2 * sizes.layers, sizes.kv_heads, -1, sizes.head], ov.Type.f32, "past")
        self.keep = op.parameter([1], ov.Type.i32, "keep")
        self._kept: list[Node] = []

    def states(self, ids: Node, rows: Node) -> Node:
        """Return the last hidden states of some tokens, float32 (R, H).

        Args:
            ids: int32 (B, L), right-padded.
            rows: int32 (R,): which tokens of the B * L. The last layer computes what follows attention for them alone.
        """
        sizes, weights = self._sizes, self._weights
        hidden = weights.rows_of("embed_tokens.weight", ids, sizes.vocab_size, sizes.hidden)
        length, past = ops.size(ids, 1), ops.size(self.past, 2)
        rope = turns(sizes.frequencies, self._limit, past, op.add(past, length))
        mask = ops.band_mask(length, past, sizes.window or self._limit)
        for number in range(sizes.layers):
            name = f"layers.{number}."
            context = self._attention(number, self._norm(name + "input_layernorm", hidden), rope, mask)
            if number == sizes.layers - 1:
                context, hidden = (_rows(x, rows, width) for x, width in ((context, sizes.heads * sizes.head),
                                                                       (hidden, sizes.hidden)))  # fmt: skip
            bias = weights.bias(name + "self_attn.o_proj.bias", sizes.hidden) if "o" in sizes.biased else None
            dense = weights.linear(name + "self_attn.o_proj.weight", sizes.hidden, sizes.heads * sizes.head)
            hidden = op.add(hidden, ops.linear(context, dense, bias))
            hidden = op.add(hidden, self._feed_forward(name, self._norm(name + "post_attention_layernorm", hidden)))
        return self._norm("norm", hidden)

    def _attention(self, number: int, x: Node, rope: tuple[Node, Node], mask: Node) -> Node:
        """Return what the tokens see, (B, L, N * D)."""
        sizes = self._sizes
        q, k, v = (
            self._project(f"layers.{number}.self_attn.{part}", x, heads)
            for part, heads in (("q", sizes.heads), ("k", sizes.kv_heads), ("v", sizes.kv_heads))
        )
        k, v = (self._after_past(2 * number + place, each) for place, each in enumerate((turned(k, rope), v)))
        return ops.merge_heads(ops.attention(turned(q, rope), _repeated(k, sizes), _repeated(v, sizes), mask))

    def _after_past(self, place: int, x: Node) -> Node:
        """Return keys or values (B, K, P + L, D), for those of the tokens: the past's come first."""
        self._kept.append(ops.rows(ops.slice_to(x, self.keep, 2), 0, 1, 0))
        past = ops.rows(self.past, place, place + 1, 0)  # (1, K, P, D)
        shape = op.concat([ops.size(x, 0), ops.numbers(1, 1, 1)], 0)
        return op.concat([op.broadcast(past, shape, broadcast_spec="BIDIRECTIONAL"), x], 2)

    def kept(self) -> Node:
        """Return keys and values of the first `keep` tokens of the first sequence, float32 (2 * layers, K, keep, D)."""
        return op.concat(self._kept, 0)

    def _project(self, name: str, x: Node, heads: int) -> Node:
        """Return queries, keys or values, (B, heads, L, D), the first two normalised if the body does."""
        sizes, part = self._sizes, name[-1]
        outputs = heads * sizes.head
        bias = self._weights.bias(f"{name}_proj.bias", outputs) if part in sizes.biased else None
        y = ops.linear(x, self._weights.linear(f"{name}_proj.weight", outputs, sizes.hidden), bias)
        y = ops.split_heads(y, heads)
        return self._norm(f"{name}_norm", y, sizes.head) if sizes.normed and part != "v" else y

    def _feed_forward(self, name: str, x: Node) -> Node:
        sizes = self._sizes
        gate, up = (
            ops.linear(x, self._weights.linear(f"{name}mlp.{part}_proj.weight", sizes.intermediate_size, sizes.hidden))
            for part in ("gate", "up")
        )
        down = self._weights.linear(f"{name}mlp.down_proj.weight", sizes.hidden, sizes.intermediate_size)
        return ops.linear(op.multiply(op.swish(gate), up), down)

    def _norm(self, name: str, x: Node, width: int | None = None) -> Node:
        scale = self._weights.table(f"{name}.weight", width or self._sizes.hidden)
        return ops.rms_norm(x, scale, self._sizes.eps)

    def log_likelihoods(self, states: Node, targets: Node) -> Node:
        """Return log p (natural log) of each row's target, float32 (R,).

        The vocabulary goes through in parts, so that only a part's logits exist at a time.

        Args:
            states: Last hidden states, float32 (R, H).
            targets: Ids, int32 (R,).
        """
        sizes = self._sizes
        tops, totals, chosen = [], [], ops.scalar(0)
        wanted = op.unsqueeze(targets, ops.numbers(1))  # (R, 1)
        for low in range(0, sizes.vocab_size, _WORDS):
            high = min(low + _WORDS, sizes.vocab_size)
            logits = ops.linear(states, self._weights.head(self._head, (sizes.vocab_size, sizes.hidden), low, high))
            tops.append(op.reduce_max(logits, ops.numbers(1), True))
            totals.append(op.reduce_sum(op.exp(op.subtract(logits, tops[-1])), ops.numbers(1), True))
            place = op.subtract(wanted, ops.numbers(low))
            here = op.logical_and(op.greater_equal(place, ops.numbers(0)), op.less(place, ops.numbers(high - low)))
            found = op.gather_elements(
                logits, op.maximum(op.minimum(place, ops.numbers(high - low - 1)), ops.numbers(0)), 1
            )
            chosen = op.add(chosen, op.select(here, found, ops.scalar(0)))
        top = op.reduce_max(op.concat(tops, 1), ops.numbers(1), True)
        total = ops.scalar(0)
        for part, own in zip(totals, tops, strict=True):
            total = op.add(total, op.multiply(part, op.exp(op.subtract(own, top))))
        return op.squeeze(op.subtract(op.subtract(chosen, top), op.log(total)), ops.numbers(1))

    def margin(self, states: Node, answers: tuple[int, int]) -> Node:
        """Return the logit of the first answer less that of the second, float32 (R, 1), in float32 throughout."""
        sizes = self._sizes
        table = self._weights.stored(
            "embed_tokens.weight" if sizes.tied else "lm_head.weight", sizes.vocab_size, sizes.hidden
        )
        first, second = (table.rows(word, word + 1).float32() for word in answers)
        return op.reduce_sum(op.multiply(states, op.constant(first - second)), ops.numbers(1), True)


def last_token_graph(decoder: Decoder) -> ov.Model:
    """Return the graph of an embedder that reads the last token: `inputs` to float32 (B, 1, H)."""
    ids, lengths = ops.inputs()
    return _graph(decoder, op.unsqueeze(decoder.states(ids, last_rows(ids, lengths)), ops.numbers(1)), [ids, lengths])


def answer_graph(decoder: Decoder, answers: tuple[int, int]) -> ov.Model:
    """Return the graph of a model that answers with one of two words: `inputs` to float32 (B, 1)."""
    ids, lengths = ops.inputs()
    states = decoder.states(ids, last_rows(ids, lengths))
    return _graph(decoder, decoder.margin(states, answers), [ids, lengths])


def likelihood_graph(decoder: Decoder) -> ov.Model:
    """Return the graph of query likelihoods: `inputs`, `readouts.target_inputs` to log p of each target, (R,)."""
    ids, lengths = ops.inputs()
    rows, targets = (op.parameter([-1], ov.Type.i32, name) for name in ("rows", "targets"))
    found = decoder.log_likelihoods(decoder.states(ids, rows), targets)
    return _graph(decoder, found, [ids, lengths, rows, targets])


def _graph(decoder: Decoder, found: Node, inputs: list[Node]) -> ov.Model:
    """Return the graph, which takes `past` and `keep` last and gives `Decoder.kept` last."""
    return ops.model([found, decoder.kept()], [*inputs, decoder.past, decoder.keep])


def last_rows(ids: Node, lengths: Node) -> Node:
    """Return which token of the B * L is each sequence's last, int32 (B,)."""
    starts = op.multiply(ops.span(ops.size(ids, 0)), ops.size(ids, 1))
    return op.add(starts, op.subtract(op.squeeze(lengths, ops.numbers(1)), op.constant(np.int32(1))))


def as_qwen2(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors of a Qwen-1 checkpoint under Qwen2's names; what holds q, k and v is parted, not copied."""
    found: dict[str, Stored] = {}
    for name, stored in tensors.items():
        names = qwen2_names(name)
        size = stored.shape[0] // max(len(names), 1) if stored.shape else 0
        for number, ours in enumerate(names):
            found[ours] = stored if len(names) == 1 else stored.rows(number * size, (number + 1) * size)
    return found


def _rows(x: Node, rows: Node, width: int) -> Node:
    return op.gather(op.reshape(x, ops.numbers(-1, width), False), rows, ops.numbers(0))


def _repeated(x: Node, sizes: DecoderSizes) -> Node:
    """Return (B, N, L, D) for (B, K, L, D): each head as often as queries share it."""
    times = sizes.heads // sizes.kv_heads
    if times == 1:
        return x
    repeated = op.broadcast(
        op.unsqueeze(x, ops.numbers(2)), ops.numbers(1, 1, times, 1, 1), broadcast_spec="BIDIRECTIONAL"
    )
    return op.reshape(repeated, ops.numbers(0, sizes.heads, -1, sizes.head), True)
