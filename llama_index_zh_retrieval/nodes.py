"""Copies of nodes: what retrievers and postprocessors give back is the caller's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode

from zh_retrieval.frameworks.conversion import copied


def copy_of(node: BaseNode) -> BaseNode:
    """Return an independent copy; what cannot be copied in its metadata is shared."""
    made = node.model_copy(update=copied(vars(node)))
    made.metadata = copied(node.metadata)
    return made


def with_scores(node: BaseNode, scores: Mapping[str, Any]) -> BaseNode:
    """Return a copy whose metadata holds the scores, left out of the text that is embedded or shown to an LLM."""
    made = copy_of(node)
    made.metadata |= scores
    for keys in (made.excluded_embed_metadata_keys, made.excluded_llm_metadata_keys):
        keys.extend(name for name in scores if name not in keys)
    return made
