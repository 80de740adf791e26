"""Chinese retrieval models: right vectors and scores without lore.

Names resolve on first use, so that `import zh_retrieval` loads no torch, transformers or numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_retrieval.base import Encoder, Reranker
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
    from zh_retrieval.loading import close_all, load_encoder, load_reranker
    from zh_retrieval.ranking import Ranked
    from zh_retrieval.recipes.catalogue import MODELS
    from zh_retrieval.recipes.registry import all_specs, get_spec, register_model
    from zh_retrieval.recipes.spec import ModelSpec, Source

__version__ = "0.1.0"

_HOMES = {
    "zh_retrieval.base": ("Encoder", "Reranker"),
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
    "zh_retrieval.loading": ("close_all", "load_encoder", "load_reranker"),
    "zh_retrieval.ranking": ("Ranked",),
    "zh_retrieval.recipes.catalogue": ("MODELS",),
    "zh_retrieval.recipes.registry": ("all_specs", "get_spec", "register_model"),
    "zh_retrieval.recipes.spec": ("ModelSpec", "Source"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MODELS",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "DeviceMemoryError",
    "DownloadError",
    "Encoder",
    "InputError",
    "MissingExtraError",
    "ModelSpec",
    "OverloadedError",
    "Ranked",
    "RemoteError",
    "Reranker",
    "Source",
    "UnknownModelError",
    "WrongTaskError",
    "ZhRetrievalError",
    "__version__",
    "all_specs",
    "close_all",
    "get_spec",
    "load_encoder",
    "load_reranker",
    "register_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zh_retrieval' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
