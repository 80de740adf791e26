"""Chinese retrieval models: right vectors and scores without lore.

Names resolve on first use, so that `import zh_retrieval` loads no torch, transformers or numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_retrieval.base import Encoder, Reranker, SparseEncoder
    from zh_retrieval.errors import (
        CheckpointError,
        ClosedError,
        ConfigError,
        DeviceMemoryError,
        DownloadError,
        InputError,
        MissingExtraError,
        OverloadedError,
        RemoteError,
        UnknownModelError,
        WrongTaskError,
        ZhRetrievalError,
    )
    from zh_retrieval.loading import close_all, load_encoder, load_reranker, load_sparse_encoder
    from zh_retrieval.ranking import Ranked
    from zh_retrieval.recipes.catalogue import MODELS
    from zh_retrieval.recipes.registry import all_specs, get_spec, register_model
    from zh_retrieval.recipes.spec import ModelSpec, Source
    from zh_retrieval.sparse.fusion import Fused, fuse
    from zh_retrieval.sparse.index import BM25Index
    from zh_retrieval.sparse.terms import terms
    from zh_retrieval.sparse.vector import SparseVector

__version__ = "0.2.0.dev0"

_HOMES = {
    "zh_retrieval.base": ("Encoder", "Reranker", "SparseEncoder"),
    "zh_retrieval.errors": (
        "CheckpointError",
        "ClosedError",
        "ConfigError",
        "DeviceMemoryError",
        "DownloadError",
        "InputError",
        "MissingExtraError",
        "OverloadedError",
        "RemoteError",
        "UnknownModelError",
        "WrongTaskError",
        "ZhRetrievalError",
    ),
    "zh_retrieval.loading": ("close_all", "load_encoder", "load_reranker", "load_sparse_encoder"),
    "zh_retrieval.ranking": ("Ranked",),
    "zh_retrieval.recipes.catalogue": ("MODELS",),
    "zh_retrieval.recipes.registry": ("all_specs", "get_spec", "register_model"),
    "zh_retrieval.recipes.spec": ("ModelSpec", "Source"),
    "zh_retrieval.sparse.fusion": ("Fused", "fuse"),
    "zh_retrieval.sparse.index": ("BM25Index",),
    "zh_retrieval.sparse.terms": ("terms",),
    "zh_retrieval.sparse.vector": ("SparseVector",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MODELS",
    "BM25Index",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "DeviceMemoryError",
    "DownloadError",
    "Encoder",
    "Fused",
    "InputError",
    "MissingExtraError",
    "ModelSpec",
    "OverloadedError",
    "Ranked",
    "RemoteError",
    "Reranker",
    "Source",
    "SparseEncoder",
    "SparseVector",
    "UnknownModelError",
    "WrongTaskError",
    "ZhRetrievalError",
    "__version__",
    "all_specs",
    "close_all",
    "fuse",
    "get_spec",
    "load_encoder",
    "load_reranker",
    "load_sparse_encoder",
    "register_model",
    "terms",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zh_retrieval' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
