"""Loaded models, shared by the whole process: equal requests get one set of weights, counted by who uses them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import torch

from zh_retrieval.engine.hardware import resolve_dtype
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.torch_engine import Engine
from zh_retrieval.local.building import build
from zh_retrieval.local.source import Source
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer

_Key = tuple[object, ...]
_LOCK = threading.RLock()  # a handle may be collected, and so released, while its thread holds this
_SHARED: dict[_Key, LoadedModel] = {}
_LOADING: dict[_Key, threading.Lock] = {}  # threads that ask for the same model together load it once


@dataclass(eq=False)
class LoadedModel:
    """One loaded model; `lease` for each handle, `release` when it goes.

    Attributes:
        folder: Where the weights came from.
        engine: Runs batches.
        scheduler: Merges the calls of all handles.
        tokenizer: Vocabulary and special tokens.
        length_limit: The most tokens of one sequence.
        forget: Called when the last lease is given back, before the worker stops.
    """

    folder: Path
    engine: Engine
    scheduler: Scheduler
    tokenizer: TextTokenizer
    length_limit: int
    forget: Callable[[LoadedModel], None]
    _leases: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)  # a handle may be collected while it is held

    def lease(self) -> bool:
        """Count one more handle; False if the model was already given up."""
        with self._lock:
            if self._leases < 0:
                return False
            self._leases += 1
            return True

    def release(self) -> None:
        """Count one handle less; the last one stops the worker, and the weights go with the references to them."""
        with self._lock:
            self._leases -= 1
            if self._leases > 0:
                return
            self._leases = -1
        self.forget(self)
        self.scheduler.close()


def share(spec: ModelSpec, options: LoadOptions, source: Source, device: torch.device) -> LoadedModel:
    dtype = torch.float32 if options.quantization == "int8" else resolve_dtype(options.dtype, device)
    key = (
        spec, str(source.folder), options.revision, str(device), dtype, options.quantization,
        options.max_batch_tokens, repr(options.device_map), repr(options.quantization_config),
        options.compile, options.dimensions,
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
    spec: ModelSpec, options: LoadOptions, source: Source, device: torch.device, dtype: torch.dtype
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
    spec: ModelSpec, options: LoadOptions, source: Source, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    engine, tokenizer, limit = build(spec, options, source, device, dtype)
    model = LoadedModel(source.folder, engine, Scheduler(engine), tokenizer, limit, _forget)
    model.lease()
    return model


def close_all() -> None:
    """Free every shared model; handles that are still open raise ClosedError when used."""
    with _LOCK:
        models = list(_SHARED.values())
        _SHARED.clear()
    for model in models:
        model.scheduler.close()
