"""Model families, one file each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zh_retrieval.models.base import Family


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads the checkpoints of an architecture.

    Attributes:
        reads: The kinds of config.json it understands (see `kind`); () reads any kind that transformers can.
        plans: How a reranker scores (None: an embedder, the body alone) -> `module:function` that plans the loading,
            imported when it is used.
    """

    reads: tuple[str, ...]
    plans: Mapping[str | None, str]


ARCHITECTURES: Mapping[str, Reader] = {
    "bert": Reader(
        ("bert",),
        {None: "zh_retrieval.models.bert:bert", "classification": "zh_retrieval.models.bert:cross_encoder"},
    ),
    "xlm-roberta": Reader(
        ("xlm-roberta",),
        {
            None: "zh_retrieval.models.xlm_roberta:xlm_roberta",
            "classification": "zh_retrieval.models.xlm_roberta:cross_encoder",
        },
    ),
    "jina-bert": Reader(("jina-bert",), {None: "zh_retrieval.models.jina_bert:jina_bert"}),
    "gte": Reader(
        ("gte",), {None: "zh_retrieval.models.gte:gte", "classification": "zh_retrieval.models.gte:cross_encoder"}
    ),
    "mistral": Reader(("mistral",), {None: "zh_retrieval.models.decoder:mistral"}),
    "qwen3": Reader(("qwen3",), {None: "zh_retrieval.models.decoder:qwen3"}),
    "causal-lm": Reader(
        (),
        {
            "query-likelihood": "zh_retrieval.models.causal_lm:causal_lm",
            "yes-no": "zh_retrieval.models.causal_lm:causal_lm",
        },
    ),
}
"""The architectures of `zh_retrieval.recipes.rules`, by the same names."""


def family(architecture: str, scoring: str | None) -> Family:
    """Return what plans the loading of checkpoints of an architecture, for a way of scoring or as an embedder."""
    module, _, name = ARCHITECTURES[architecture].plans[scoring].partition(":")
    found: Family = getattr(importlib.import_module(module), name)
    return found


def kind(config: Mapping[str, Any]) -> str:
    """Return the model type of a config.json; what calls itself otherwise by its own name.

    JinaBERT calls itself BERT, and GTE "new" where its makers published it.
    """
    model_type = str(config.get("model_type", "unknown"))
    if model_type == "bert" and config.get("position_embedding_type") == "alibi":
        return "jina-bert"
    return "gte" if model_type == "new" else model_type


def reads(architecture: str, config: Mapping[str, Any]) -> bool:
    """Return True if checkpoints with this config.json are ones that an architecture reads."""
    known = ARCHITECTURES[architecture].reads
    return not known or kind(config) in known
