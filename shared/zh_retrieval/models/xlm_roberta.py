"""XLM-R as an embedder's body or as a cross-encoder with one or two labels. Position ids start after the padding id."""

from __future__ import annotations

from typing import Any

from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.labels import count_labels


def xlm_roberta(config: dict[str, Any]) -> Plan:
    """Return the plan of an XLM-R embedder, without the pooler."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    parsed = XLMRobertaConfig.from_dict(config)

    def parts(model: Any) -> Parts:
        return _parts(model, None, parsed)

    return Plan(XLMRobertaModel, parsed, parts, arguments={"add_pooling_layer": False})


def cross_encoder(config: dict[str, Any]) -> Plan:
    """Return the plan of an XLM-R cross-encoder.

    Raises:
        CheckpointError: It has more than two labels.
    """
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    parsed = XLMRobertaConfig.from_dict(config)
    count_labels(config)

    def parts(model: Any) -> Parts:
        return _parts(model.roberta, model.classifier, parsed)

    return Plan(XLMRobertaForSequenceClassification, parsed, parts)


def _parts(body: Any, head: Any, parsed: Any) -> Parts:
    offset = (1 if parsed.pad_token_id is None else int(parsed.pad_token_id)) + 1
    return Parts(body, head, parsed.hidden_size, parsed.max_position_embeddings - offset, offset)
