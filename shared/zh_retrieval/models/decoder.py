"""Causal decoders as embedders: the body alone. Heads may be wider than the hidden size divided by their number."""

from __future__ import annotations

from typing import Any

from zh_retrieval.models.base import Parts, Plan


def mistral(config: dict[str, Any]) -> Plan:
    """Return the plan of a Mistral body."""
    from transformers import MistralConfig, MistralModel

    return _plan(MistralModel, MistralConfig.from_dict(config))


def qwen3(config: dict[str, Any]) -> Plan:
    """Return the plan of a Qwen3 body, which normalises queries and keys per head."""
    from transformers import Qwen3Config, Qwen3Model

    return _plan(Qwen3Model, Qwen3Config.from_dict(config))


def _plan(cls: Any, parsed: Any) -> Plan:
    """Return the plan of a decoder; a sequence is never longer than the sliding window, if there is one."""
    window = getattr(parsed, "sliding_window", None) or parsed.max_position_embeddings

    def parts(model: Any) -> Parts:
        return Parts(model, None, parsed.hidden_size, min(window, parsed.max_position_embeddings), causal=True)

    return Plan(cls, parsed, parts)
