"""Causal language models that score a query's likelihood: whatever transformers has, and Qwen-1 as its Qwen2."""

from __future__ import annotations

from typing import Any

from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers.attention import NAME
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.qwen1 import is_qwen1, qwen1_class, qwen2_config


def causal_lm(config: dict[str, Any]) -> Plan:
    """Return the plan of a causal language model.

    Raises:
        CheckpointError: transformers has no such model type, or it is no causal language model.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if is_qwen1(config):
        parsed: Any = qwen2_config(config)
        cls: Any = qwen1_class()
    else:
        if config.get("model_type") not in CONFIG_MAPPING:
            raise CheckpointError(f"transformers has no model type {config.get('model_type')!r}.")
        parsed = CONFIG_MAPPING[config["model_type"]].from_dict(config)
        if type(parsed) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise CheckpointError(f"config.json describes {config['model_type']!r}, which is no causal language model.")
        cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
    packed = bool(getattr(cls, "_supports_attention_backend", False))

    def parts(model: Any) -> Parts:
        limit = getattr(parsed, "max_position_embeddings", None) or 8192
        softcap = getattr(parsed, "final_logit_softcapping", None)
        head = model.get_output_embeddings()
        return Parts(model.base_model, head, parsed.hidden_size, limit, packed=packed, softcap=softcap)

    return Plan(cls, parsed, parts, attention=NAME if packed else "eager")
