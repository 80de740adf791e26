"""XLM-R cross-encoders with one label. Position ids start after the padding id."""

from __future__ import annotations

from typing import Any

from zh_retrieval.errors import CheckpointError
from zh_retrieval.models.base import Parts, Plan


def xlm_roberta(config: dict[str, Any]) -> Plan:
    """Return the plan of an XLM-R cross-encoder.

    Raises:
        CheckpointError: It scores more than one label.
    """
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    parsed = XLMRobertaConfig.from_dict(config)
    if parsed.num_labels != 1:
        raise CheckpointError(f"config.json describes {parsed.num_labels} labels, expected the 1 of a reranker.")
    offset = int(config.get("pad_token_id", 1)) + 1

    def parts(model: Any) -> Parts:
        limit = parsed.max_position_embeddings - offset
        return Parts(model.roberta, model.classifier, parsed.hidden_size, limit, offset)

    return Plan(XLMRobertaForSequenceClassification, parsed, parts)
