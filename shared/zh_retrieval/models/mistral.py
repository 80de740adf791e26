"""Mistral bodies as embedders."""

from __future__ import annotations

from typing import Any

from zh_retrieval.models.base import Parts, Plan


def mistral(config: dict[str, Any]) -> Plan:
    """Return the plan of a Mistral body; a sequence is never longer than the sliding window."""
    from transformers import MistralConfig, MistralModel

    parsed = MistralConfig.from_dict(config)
    window = parsed.sliding_window or parsed.max_position_embeddings

    def parts(model: Any) -> Parts:
        return Parts(model, None, parsed.hidden_size, min(window, parsed.max_position_embeddings))

    return Plan(MistralModel, parsed, parts)
