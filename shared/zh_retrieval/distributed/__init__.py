"""Corpora and a service over a Ray cluster. Needs the extra `ray`, which nothing imports before it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_retrieval.distributed.dataset import embed_dataset
    from zh_retrieval.distributed.indexing import build_faiss, read_parts, upload_qdrant
    from zh_retrieval.distributed.mapping import EmbedDocuments, ScorePairs
    from zh_retrieval.distributed.serving import serve_app

_HOME_OF = {
    "EmbedDocuments": "zh_retrieval.distributed.mapping",
    "ScorePairs": "zh_retrieval.distributed.mapping",
    "build_faiss": "zh_retrieval.distributed.indexing",
    "embed_dataset": "zh_retrieval.distributed.dataset",
    "read_parts": "zh_retrieval.distributed.indexing",
    "serve_app": "zh_retrieval.distributed.serving",
    "upload_qdrant": "zh_retrieval.distributed.indexing",
}

__all__ = ["EmbedDocuments", "ScorePairs", "build_faiss", "embed_dataset", "read_parts", "serve_app", "upload_qdrant"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zh_retrieval.distributed' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
