"""How many labels a classifier's config.json describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zh_retrieval.errors import CheckpointError


def count_labels(config: Mapping[str, Any]) -> int:
    """Return how many labels a config.json describes: one (relevance) or two (not relevant, relevant).

    Without `id2label` and `num_labels` there are two, as transformers assumes.

    Raises:
        CheckpointError: There are more or fewer, which is no reranker.
    """
    names = config.get("id2label")
    labels = len(names) if isinstance(names, Mapping) else config.get("num_labels", 2)
    if type(labels) is not int or labels not in (1, 2):
        raise CheckpointError(f"config.json describes {str(labels)[:40]} labels, expected the 1 or 2 of a reranker.")
    return labels
