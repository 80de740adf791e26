"""A name and options to an encoder or a reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.engine.hardware import resolve_device
from zh_retrieval.errors import ConfigError
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.reranker import LocalReranker
from zh_retrieval.local.sharing import LoadedModel, close_all, share
from zh_retrieval.local.source import find_source
from zh_retrieval.options import Dtype, LoadOptions, Overflow, Quantization
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.spec import ModelSpec, Task

__all__ = ["close_all", "load_encoder", "load_reranker"]


def load_encoder(
    model: str,
    *,
    path: str | Path | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    overflow: Overflow = "truncate",
    max_batch_tokens: int | None = None,
    private: bool = False,
    device_map: Any = None,
    quantization_config: Any = None,
    compile: bool = False,
    show_progress: bool = False,
) -> Encoder:
    """Return a handle on an embedding model, loading it if no equal one is loaded.

    The options are those of `zh_retrieval.options.LoadOptions`; `show_progress` shows a bar while downloading.

    Raises:
        UnknownModelError: No such model.
        WrongTaskError: The model is a reranker.
        ConfigError: An option has a value that this model does not support.
        DownloadError: The weights are neither here nor to be had.
        CheckpointError: The weights do not fit the recipe.
    """
    options = LoadOptions(
        path, device, dtype, quantization, max_length, revision, cache_dir, local_files_only, overflow,
        max_batch_tokens, private, device_map, quantization_config, compile,
    )  # fmt: skip
    return LocalEncoder(*_acquire(model, "embedding", options, show_progress))


def load_reranker(
    model: str,
    *,
    path: str | Path | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    overflow: Overflow = "truncate",
    max_batch_tokens: int | None = None,
    private: bool = False,
    device_map: Any = None,
    quantization_config: Any = None,
    compile: bool = False,
    show_progress: bool = False,
) -> Reranker:
    """Return a handle on a reranking model, loading it if no equal one is loaded.

    Options and errors are those of `load_encoder`; WrongTaskError here means the model is an embedder.
    """
    options = LoadOptions(
        path, device, dtype, quantization, max_length, revision, cache_dir, local_files_only, overflow,
        max_batch_tokens, private, device_map, quantization_config, compile,
    )  # fmt: skip
    return LocalReranker(*_acquire(model, "reranking", options, show_progress))


def _acquire(
    name: str, task: Task, options: LoadOptions, show_progress: bool
) -> tuple[LoadedModel, ModelSpec, int, Overflow]:
    spec = get_spec(name)
    check_task(spec, task)
    options = options.with_environment()
    options.check(task)
    device = resolve_device(options.device)
    if options.quantization == "int8" and device.type != "cpu":
        raise ConfigError(f"quantization='int8' runs on the CPU, not on {device}. Leave it out, or device='cpu'.")
    if options.compile and device.type != "cuda":
        raise ConfigError(
            f"compile=True is for CUDA; on {device} weights are laid out beforehand instead. Leave it out."
        )
    source, spec = find_source(spec, options, show_progress)
    model = share(spec, options, source, device)
    try:
        max_length = _max_length(spec, options, model.length_limit)
    except ConfigError:
        model.release()
        raise
    return model, spec, max_length, options.overflow


def _max_length(spec: ModelSpec, options: LoadOptions, limit: int) -> int:
    if options.max_length is None:
        return min(spec.max_length, limit)
    least = len(spec.prefix) + len(spec.suffix) + len(spec.separator) + 1
    if not least <= options.max_length <= limit:
        raise ConfigError(f"max_length={options.max_length} must be {least} to {limit} tokens for {spec.name}.")
    return options.max_length
