"""Loaded models, shared by the whole process: equal requests get one set of weights."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zh_retrieval.checkpoint import conventions, lora
from zh_retrieval.checkpoint.load import Checkpoint, Loading, load_checkpoint
from zh_retrieval.engine.compile import Compiled
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.hardware import cpu_computes_bfloat16, default_batch_tokens, resolve_device, resolve_dtype
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.torch_engine import Engine
from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.hub.download import fetch
from zh_retrieval.layers import readout
from zh_retrieval.layers.bert_cpu import fuse_gelu, join_projections, narrow_between, widen_residuals
from zh_retrieval.layers.onednn import prepack, quantize_int8
from zh_retrieval.local.encoder import Encoder
from zh_retrieval.local.reranker import Reranker
from zh_retrieval.local.sharing import LoadedModel
from zh_retrieval.options import Dtype, LoadOptions, Overflow, Quantization
from zh_retrieval.recipes.catalogue import ModelSpec, Task, check_task, get_spec

_Key = tuple[object, ...]
_LOCK = threading.RLock()  # a handle may be collected, and so released, while its thread holds this
_SHARED: dict[_Key, LoadedModel] = {}
_LOADING: dict[_Key, threading.Lock] = {}  # threads that ask for the same model together load it once


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
    return Encoder(*_acquire(model, "embedding", options, show_progress))


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
    return Reranker(*_acquire(model, "reranking", options, show_progress))


def close_all() -> None:
    """Free every shared model; handles that are still open raise ClosedError when used."""
    with _LOCK:
        models = list(_SHARED.values())
        _SHARED.clear()
    for model in models:
        model.scheduler.close()


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
    source, spec = _source(spec, options, show_progress)
    model = _lease(spec, options, source, device)
    try:
        max_length = _max_length(spec, options, model.length_limit)
    except ConfigError:
        model.release()
        raise
    return model, spec, max_length, options.overflow


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model comes from: the folder that was asked for, that of its weights, and that of an adapter."""

    folder: Path
    weights: Path
    adapter: Path | None = None


def _source(spec: ModelSpec, options: LoadOptions, show_progress: bool) -> tuple[_Source, ModelSpec]:
    """Return where the model comes from, and the recipe with what a folder of the user says about itself."""
    if options.path is None:
        folder = _fetch(spec, options, show_progress)
        return _Source(folder, folder), spec
    folder = Path(options.path).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"path={str(options.path)!r} is not a folder. Give the folder that holds config.json.")
    weights, spec = conventions.follow(folder, spec)
    if not (weights / lora.CONFIG).is_file() or (weights / "config.json").is_file():  # both: load_checkpoint refuses
        return _Source(folder, weights), spec
    return _Source(folder, _base(weights, spec, options, show_progress), adapter=weights), spec


def _base(adapter: Path, spec: ModelSpec, options: LoadOptions, show_progress: bool) -> Path:
    """Return the folder of the weights that an adapter was trained on."""
    name = lora.base_name(adapter)
    local = Path(name).expanduser()
    if (local / "config.json").is_file():
        return local.resolve()
    if name.lower() in {spec.name, *spec.aliases, *(source.id.lower() for source in spec.sources)}:
        return _fetch(spec, options, show_progress)
    raise CheckpointError(
        f"{adapter / lora.CONFIG} says that the adapter was trained on {name!r}: no folder here, and none of the hub "
        f"ids of {spec.name}. Put the folder of the base model into base_model_name_or_path."
    )


def _fetch(spec: ModelSpec, options: LoadOptions, show_progress: bool) -> Path:
    return fetch(
        spec,
        revision=options.revision,
        cache_dir=options.cache_dir,
        local_files_only=options.local_files_only,
        show_progress=show_progress,
    )


def _lease(spec: ModelSpec, options: LoadOptions, source: _Source, device: torch.device) -> LoadedModel:
    dtype = torch.float32 if options.quantization == "int8" else resolve_dtype(options.dtype, device)
    key = (
        spec.name, str(source.folder), options.revision, str(device), dtype, options.quantization,
        options.max_batch_tokens, repr(options.device_map), repr(options.quantization_config),
        options.compile,
    )  # fmt: skip
    if options.private:
        return _load_apart(spec, options, source, device, dtype)
    with _LOCK:
        loading = _LOADING.setdefault(key, threading.Lock())
    with loading:
        with _LOCK:
            shared = _SHARED.get(key)
        if shared is not None and shared.lease():
            return shared
        loaded = _load_apart(spec, options, source, device, dtype)
        with _LOCK:
            _SHARED[key] = loaded
        return loaded


def _forget(model: LoadedModel) -> None:
    with _LOCK:
        for key in [key for key, shared in _SHARED.items() if shared is model]:
            del _SHARED[key]


def _load_apart(
    spec: ModelSpec, options: LoadOptions, source: _Source, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    """Load in a thread that ends: OpenMP's threads, one team for each thread that ever computed, end with it.

    A team left behind in the caller's thread makes OpenMP count more threads than cores, and every later parallel
    region of the worker then starts with a system call: 35 ms instead of 20 for a short query of bge-base.
    """
    future: Future[LoadedModel] = Future()

    def load() -> None:
        try:
            future.set_result(_load(spec, options, source, device, dtype))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=load, name="zh-retrieval-load", daemon=True)
    thread.start()
    thread.join()
    return future.result()


def _load(
    spec: ModelSpec, options: LoadOptions, source: _Source, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    loading = Loading(dtype, options.device_map, options.quantization_config)
    own = options.path is not None
    checkpoint = load_checkpoint(source.weights, spec, loading, trusted_sizes=own, adapter=source.adapter)
    limit = min(checkpoint.length_limit, spec.length_limit)
    engine = _engine(spec, checkpoint, options, device, dtype, limit)
    model = LoadedModel(source.folder, engine, Scheduler(engine), checkpoint.tokenizer, limit, _forget)
    model.lease()
    return model


def _engine(
    spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, device: torch.device, dtype: torch.dtype, limit: int
) -> Engine:
    if options.device_map is None:
        _place(spec, checkpoint, options, device)
    if spec.scoring == "classification" and checkpoint.head is not None:
        read, width = readout.classified(checkpoint.head), 1
    elif spec.scoring == "query-likelihood" and checkpoint.head is not None:
        read, width = readout.query_likelihood(checkpoint.head, checkpoint.softcap), 1
    elif spec.pooling is not None:
        read, width = readout.pooled(spec.pooling), checkpoint.width
    else:
        raise ConfigError(f"The entry of {spec.name} says neither pooling nor scoring.")
    alone = device.type == "cuda" and checkpoint.packed and options.device_map is None
    return Engine(
        Compiled(checkpoint.body) if options.compile else checkpoint.body,
        read,
        device=device,
        dtype=dtype,
        width=width,
        max_batch_tokens=options.max_batch_tokens or default_batch_tokens(device, dtype, checkpoint.body.config),
        position_offset=checkpoint.position_offset,
        packed=checkpoint.packed,
        graphs=QueryGraphs(checkpoint.body, device, limit, checkpoint.position_offset) if alone else None,
    )


def _place(spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, device: torch.device) -> None:
    """Move the model to its device; on the CPU, lay out its weights. A language model's head stays as it is."""
    for module in (checkpoint.body, checkpoint.head):
        if module is not None:
            module.to(device)
    if device.type != "cpu" or options.quantization_config is not None:
        return
    modules = [checkpoint.body, *([checkpoint.head] if checkpoint.head and spec.scoring == "classification" else [])]
    join_projections(checkpoint.body)
    for module in modules:
        (quantize_int8 if options.quantization == "int8" else prepack)(module)
    fuse_gelu(checkpoint.body)
    if cpu_computes_bfloat16():
        narrow_between(checkpoint.body)
    if spec.scoring == "classification" and checkpoint.body.dtype == torch.bfloat16:
        widen_residuals(checkpoint.body)  # scores of one query lie close together, and their order is the result


def _max_length(spec: ModelSpec, options: LoadOptions, limit: int) -> int:
    if options.max_length is None:
        return min(spec.max_length, limit)
    least = len(spec.prefix) + len(spec.suffix) + len(spec.separator) + 1
    if not least <= options.max_length <= limit:
        raise ConfigError(f"max_length={options.max_length} must be {least} to {limit} tokens for {spec.name}.")
    return options.max_length
