"""Model families, one file each."""

from __future__ import annotations

import importlib

from zh_retrieval.models.base import Family

ARCHITECTURES = {
    "bert": "zh_retrieval.models.bert:bert",
    "xlm-roberta": "zh_retrieval.models.xlm_roberta:xlm_roberta",
    "jina-bert": "zh_retrieval.models.jina_bert:jina_bert",
    "mistral": "zh_retrieval.models.mistral:mistral",
    "qwen": "zh_retrieval.models.causal_lm:causal_lm",
}
"""The architecture that a recipe names -> what plans the loading of its checkpoints, imported when it is used."""


def family(architecture: str) -> Family:
    """Return what plans the loading of checkpoints of an architecture."""
    module, _, name = ARCHITECTURES[architecture].partition(":")
    found: Family = getattr(importlib.import_module(module), name)
    return found
