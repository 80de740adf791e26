"""Corpora over a Ray cluster. Needs the extra `ray`, which nothing imports before it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_retrieval.distributed.dataset import embed_dataset
    from zh_retrieval.distributed.mapping import EmbedDocuments, ScorePairs

_HOME_OF = {
    "EmbedDocuments": "zh_retrieval.distributed.mapping",
    "ScorePairs": "zh_retrieval.distributed.mapping",
    "embed_dataset": "zh_retrieval.distributed.dataset",
}

__all__ = ["EmbedDocuments", "ScorePairs", "embed_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zh_retrieval.distributed' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
