"""What a report has to say about where it was made."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from zh_retrieval.engine.hardware import cpu_features

_PACKAGES = ("zh-retrieval", "torch", "transformers", "sentence-transformers", "FlagEmbedding")


def facts() -> dict[str, Any]:
    """Return processor, features, threads, GPU and the versions that matter."""
    found: dict[str, Any] = {
        "processor": _processor(), "cpu_features": cpu_features(), "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
    }  # fmt: skip
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
