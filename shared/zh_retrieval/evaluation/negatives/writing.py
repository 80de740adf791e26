"""Examples as the trainers of others read them, as JSON lines. A file is whole, or what it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.negatives.mining import Example, Mined
from zh_retrieval.files.utf8 import json_text
from zh_retrieval.files.whole import write_whole

Rows = Callable[[Dataset, Example], Iterator[Mapping[str, Any]]]


def _flag_embedding(dataset: Dataset, example: Example) -> Iterator[Mapping[str, Any]]:
    """Yield {query, pos, neg, pos_scores, neg_scores}: FlagEmbedding's abc/finetune/embedder/AbsDataset.py."""
    yield {
        "query": dataset.queries[example.query],
        "pos": [dataset.corpus[name].joined() for name in example.right],
        "neg": [dataset.corpus[name].joined() for name in example.negatives],
        "pos_scores": list(example.right.values()),
        "neg_scores": list(example.negatives.values()),
    }


def _sentence_transformers(dataset: Dataset, example: Example) -> Iterator[Mapping[str, Any]]:
    """Yield {anchor, positive, negative} for each right passage with each negative: sentence-transformers' triplets."""
    for right in example.right:
        for wrong in example.negatives:
            yield {
                "anchor": dataset.queries[example.query],
                "positive": dataset.corpus[right].joined(),
                "negative": dataset.corpus[wrong].joined(),
            }


FORMATS: Mapping[str, Rows] = {"flagembedding": _flag_embedding, "sentence-transformers": _sentence_transformers}
"""Name -> rows of an example. No prompt is in a text: a trainer adds them."""


def write_examples(dataset: Dataset, mined: Mined, target: Path, form: str) -> int:
    """Write the examples and return how many rows they are.

    Raises:
        OSError: It cannot be written; the target is what it was.
    """
    lines = [json_text(row) + "\n" for example in mined.examples for row in FORMATS[form](dataset, example)]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, lambda file: file.write_text("".join(lines), encoding="utf-8", newline="\n"))
    return len(lines)
