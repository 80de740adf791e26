"""Corpora and a service over a Ray cluster. Needs the extra `ray`, which nothing imports before it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_retrieval.distributed.dataset import embed_dataset
    from zh_retrieval.distributed.faiss_index import build_faiss
    from zh_retrieval.distributed.mapping import EmbedDocuments, ScorePairs
    from zh_retrieval.distributed.parts import Columns, read_parts
    from zh_retrieval.distributed.qdrant_upload import upload_qdrant
    from zh_retrieval.distributed.serving import serve_app

_HOME_OF = {
    "Columns": "zh_retrieval.distributed.parts",
    "EmbedDocuments": "zh_retrieval.distributed.mapping",
    "ScorePairs": "zh_retrieval.distributed.mapping",
    "build_faiss": "zh_retrieval.distributed.faiss_index",
    "embed_dataset": "zh_retrieval.distributed.dataset",
    "read_parts": "zh_retrieval.distributed.parts",
    "serve_app": "zh_retrieval.distributed.serving",
    "upload_qdrant": "zh_retrieval.distributed.qdrant_upload",
}

__all__ = [
    "Columns",
    "EmbedDocuments",
    "ScorePairs",
    "build_faiss",
    "embed_dataset",
    "read_parts",
    "serve_app",
    "upload_qdrant",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zh_retrieval.distributed' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
