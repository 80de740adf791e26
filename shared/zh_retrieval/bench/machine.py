"""What a report has to say about where it was made."""

from __future__ import annotations

import platform
from typing import Any

import torch

from zh_retrieval.engine.cpus import usable_cpus
from zh_retrieval.engine.hardware import cpu_features


def facts() -> dict[str, Any]:
    """Return processor, features, how many of its threads compute, and the GPU."""
    found: dict[str, Any] = {
        "processor": _processor(), "cpu_features": cpu_features(), "threads": usable_cpus(),
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
