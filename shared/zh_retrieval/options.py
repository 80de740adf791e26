"""How a model is loaded: every option once, with its default, its environment variable and its check."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.spec import Task

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Overflow = Literal["truncate", "error", "window"]

ENVIRONMENT = {
    "device": "ZH_RETRIEVAL_DEVICE",
    "dtype": "ZH_RETRIEVAL_DTYPE",
    "cache_dir": "ZH_RETRIEVAL_CACHE",
    "local_files_only": "ZH_RETRIEVAL_OFFLINE",
}
"""Option name -> environment variable that replaces its default; an explicit argument always wins."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of `load_encoder` and `load_reranker`.

    Attributes:
        path: Folder that holds the weights (fine-tuned, reduced or offline copy); None downloads from the hub.
        device: "auto" (CUDA if present, else CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" picks bfloat16 where the hardware computes in it, else float16 on CUDA, else float32.
        quantization: "int8" (CPU only) or None.
        max_length: Tokens per sequence, special tokens included; None is the model's default.
        revision: Hub revision; None is the one of the recipe.
        cache_dir: Where snapshots are kept; None is the ModelScope cache of the user.
        local_files_only: Never use the network.
        overflow: What happens to longer input: "truncate" (one warning per call), "error" or, for rerankers, "window".
        max_batch_tokens: Tokens of one forward pass; None chooses by device.
        private: Do not share the weights with other handles.
        device_map: Passed to transformers for the large models (needs accelerate).
        quantization_config: Passed to transformers for the large models.
        compile: Compile the model with torch.compile (CUDA only): minutes at the first calls, then fewer kernels.
    """

    path: str | Path | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization | None = None
    max_length: int | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    overflow: Overflow = "truncate"
    max_batch_tokens: int | None = None
    private: bool = False
    device_map: Any = None
    quantization_config: Any = None
    compile: bool = False

    def with_environment(self) -> LoadOptions:
        """Return a copy in which defaults are replaced by the environment variables that are set."""
        changes: dict[str, Any] = {}
        if self.device == "auto" and os.environ.get(ENVIRONMENT["device"]):
            changes["device"] = os.environ[ENVIRONMENT["device"]]
        if self.dtype == "auto" and os.environ.get(ENVIRONMENT["dtype"]):
            changes["dtype"] = os.environ[ENVIRONMENT["dtype"]]
        if self.cache_dir is None and os.environ.get(ENVIRONMENT["cache_dir"]):
            changes["cache_dir"] = os.environ[ENVIRONMENT["cache_dir"]]
        if not self.local_files_only and offline():
            changes["local_files_only"] = True
        return replace(self, **changes) if changes else self

    def check(self, task: Task) -> None:
        """Raise ConfigError for a value that no model of the task supports."""
        _one_of("dtype", self.dtype, get_args(Dtype))
        _one_of("overflow", self.overflow, get_args(Overflow))
        if self.quantization is not None:
            _one_of("quantization", self.quantization, get_args(Quantization))
        if not isinstance(self.device, str) or self.device.split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise ConfigError(f"device={self.device!r} is unknown. Use 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.")
        if self.overflow == "window" and task == "embedding":
            raise ConfigError("overflow='window' is for rerankers. Use 'truncate', 'error', or Encoder.encode_chunks.")
        for name in ("max_length", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name}={value!r} must be a positive whole number of tokens, or None.")


def offline() -> bool:
    """Return True if ZH_RETRIEVAL_OFFLINE forbids the network."""
    return os.environ.get(ENVIRONMENT["local_files_only"], "").strip().lower() in ("1", "true", "yes", "on")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is unknown. Use one of {', '.join(map(repr, allowed))}.")
