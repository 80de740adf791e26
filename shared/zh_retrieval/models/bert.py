"""BERT bodies: an embedder without the pooler, or a cross-encoder, whose head begins with it."""

from __future__ import annotations

from typing import Any

from torch import nn

from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.labels import count_labels


def bert(config: dict[str, Any]) -> Plan:
    """Return the plan of a BERT embedder."""
    from transformers import BertConfig, BertModel

    parsed = BertConfig.from_dict(config)

    def parts(model: Any) -> Parts:
        return Parts(model, None, parsed.hidden_size, parsed.max_position_embeddings)

    return Plan(BertModel, parsed, parts, arguments={"add_pooling_layer": False})


def cross_encoder(config: dict[str, Any]) -> Plan:
    """Return the plan of a BERT cross-encoder: transformers' `BertForSequenceClassification`.

    Raises:
        CheckpointError: It has more than two labels.
    """
    from transformers import BertConfig, BertForSequenceClassification

    parsed = BertConfig.from_dict(config)
    count_labels(config)

    def parts(model: Any) -> Parts:
        head = nn.Sequential(model.bert.pooler, model.classifier)  # (R, 1, H) to (R, labels)
        model.bert.pooler = None  # it would read the first token of a packed row, and of no other sequence
        return Parts(model.bert, head, parsed.hidden_size, parsed.max_position_embeddings)

    return Plan(BertForSequenceClassification, parsed, parts)
