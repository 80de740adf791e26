"""How many labels a classifier's config.json describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zh_retrieval.errors import CheckpointError


def check_one_label(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a config.json does not describe the one label of a reranker.

    Without `id2label` and `num_labels` there are two, as transformers assumes.
    """
    names = config.get("id2label")
    labels = len(names) if names is not None else config.get("num_labels", 2)
    if labels != 1:
        raise CheckpointError(f"config.json describes {labels} labels, expected the 1 of a reranker.")
