"""BERT bodies, without the pooler."""

from __future__ import annotations

from typing import Any

from zh_retrieval.models.base import Parts, Plan


def bert(config: dict[str, Any]) -> Plan:
    """Return the plan of a BERT embedder."""
    from transformers import BertConfig, BertModel

    parsed = BertConfig.from_dict(config)

    def parts(model: Any) -> Parts:
        return Parts(model, None, parsed.hidden_size, parsed.max_position_embeddings)

    return Plan(BertModel, parsed, parts, arguments={"add_pooling_layer": False})
