"""What becomes of a graph's output: float32 rows, in the order of the batch.

Axes: B sequences of a batch, L tokens of the longest, H hidden, R result rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from zh_retrieval.checkpoint.dense import Dense
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.recipes.spec import Pooling
from zh_retrieval.sequence import Tokens, row_places

Readout = Callable[[np.ndarray, Sequence[Tokens]], np.ndarray]
"""A graph's output and the sequences of its batch to float32 (R, width), which no later pass writes over."""


def pooled(pooling: Pooling, dimensions: int | None = None, dense: Dense | None = None) -> Readout:
    """Return the readout of an embedder: one L2-normalised vector for each sequence, or for each of its spans.

    The output is (B, L, H), and for "cls" and "last" (B, 1, H): the row that is the vector. `dense` is computed in
    float32 from the pooled rows. `dimensions` keeps so many of the first numbers and normalises those (Matryoshka);
    None keeps all.
    """

    def read(output: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
        rows: np.ndarray = _means(output, tokens) if pooling == "mean" else output[:, 0]
        if dense is not None:
            rows = _dense(rows, dense.weight, dense.bias)
            rows = np.tanh(rows) if dense.tanh else rows
        return normalized(rows[:, :dimensions])

    return read


def with_token_weights(vectors: Readout, weight: np.ndarray, bias: float) -> Readout:
    """Return the readout of an embedder that also gives each token's weight to the sequences that ask for it.

    The weight is relu(weight · state + bias), in float32 whatever the body computes in. The output is (B, L, H).

    Args:
        vectors: Reads the vectors.
        weight: float32 (H,) of the linear layer.
        bias: Its bias.
    """

    def read(output: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
        dense = vectors(output, tokens)
        if not any(item.weight_rows for item in tokens):
            return dense
        width = dense.shape[1]
        rows = np.zeros((sum(item.rows for item in tokens), width), dtype=np.float32)
        places, weights = row_places(tokens, width)
        rows[places] = dense
        numbers = rows.reshape(-1)
        for states, item, part in zip(output, tokens, weights, strict=True):
            if part:  # without BLAS, as `_dense`
                sums = np.einsum("lh,h->l", states[: len(item.ids)], weight) + np.float32(bias)
                np.maximum(sums, 0, out=numbers[part.start : part.stop])
        return rows

    return read


def scored(output: np.ndarray, _: Sequence[Tokens]) -> np.ndarray:
    """Return the scores, (R, 1), that a graph computes itself: its output, (B, 1), copied."""
    scores: np.ndarray = output.copy()
    return scores


class ClassificationHead:
    """Reads the scores of a cross-encoder, (R, 1), from the first token's state, float32 (B, 1, H) or (B, L, H).

    Computed in float32 whatever the body computes in: every score passes through these few numbers, and to round them
    to bfloat16 costs more of the order than to round the whole body.

    Args:
        names: Of its two layers.
        labels: 1; or 2 (not relevant, relevant), of which the second's logit minus the first's is the score.
    """

    def __init__(self, names: tuple[str, str], labels: int) -> None:
        self._names, self._labels = names, labels

    def load(self, weights: Weights, hidden: int) -> None:
        """Take the head's tensors, copied: a file that changes later does not show."""
        (dense, out), labels = self._names, self._labels
        self._dense = weights.array(f"{dense}.weight", hidden, hidden).copy()
        self._dense_bias = weights.array(f"{dense}.bias", hidden).copy()
        self._out = weights.array(f"{out}.weight", labels, hidden).copy()
        self._out_bias = weights.array(f"{out}.bias", labels).copy()

    def __call__(self, output: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return the scores, float32 (R, 1)."""
        del tokens
        inner = np.tanh(_dense(output[:, 0], self._dense, self._dense_bias))
        logits = _dense(inner, self._out, self._out_bias)
        return logits if self._labels == 1 else logits[:, 1:] - logits[:, :1]


def _dense(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return rows @ weight.T + bias, without BLAS: its threads spin after a product, and the graph's wait for cores."""
    product: np.ndarray = np.einsum("bi,oi->bo", rows, weight)
    return product if bias is None else product + bias


def target_inputs(tokens: Sequence[Tokens], longest: int) -> list[np.ndarray]:
    """Return what a graph of query likelihoods takes besides, int32 (T,) each for T targets of all sequences.

    The first says which of the B * L tokens predict them, the second which words they are.
    """
    rows = [
        np.arange(number * longest + len(item.ids) - len(item.targets), number * longest + len(item.ids))
        for number, item in enumerate(tokens)
    ]
    targets = [target for item in tokens for target in item.targets]
    return [np.concatenate(rows).astype(np.int32), np.array(targets, dtype=np.int32)]


def likelihoods(output: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
    """Return mean log p (natural log) of each sequence's targets, (R, 1), for log p of all of them, (T,)."""
    counts = np.array([len(item.targets) for item in tokens])
    sums = np.add.reduceat(output, np.cumsum(counts) - counts)
    means: np.ndarray = (sums / counts).astype(np.float32)[:, None]
    return means


def normalized(rows: np.ndarray) -> np.ndarray:
    """Return each row divided by its length, as a new array."""
    lengths = np.sqrt(np.einsum("rh,rh->r", rows, rows))[:, None]
    quotient: np.ndarray = rows / np.maximum(lengths, 1e-12)
    return quotient


def _means(output: np.ndarray, tokens: Sequence[Tokens]) -> np.ndarray:
    means: np.ndarray = np.stack(
        [
            states[low:high].mean(axis=0)
            for states, item in zip(output, tokens, strict=True)
            for low, high in (((0, len(item.ids)),) if item.spans is None else item.spans)
        ]
    )
    return means
