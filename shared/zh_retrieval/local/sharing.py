"""Models are loaded once for the whole process: equal requests get one set of weights."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial

from zh_retrieval import process
from zh_retrieval.checkpoint.fingerprint import ModelFiles
from zh_retrieval.engine.hardware import computed_dtype
from zh_retrieval.errors import CheckpointError
from zh_retrieval.local.building import build
from zh_retrieval.local.loaded import LOCK, SHARED, LoadedModel
from zh_retrieval.local.source import Source
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec

logger = logging.getLogger(__name__)

_TRIES = 3  # loads of a folder that changes meanwhile
_LOADING: dict[Hashable, Future[LoadedModel]] = {}  # threads that ask for the same model together load it once


class _ChangedError(CheckpointError):
    """The files of a model changed while they were loaded."""


def share(spec: ModelSpec, options: LoadOptions, source: Source, device: str) -> LoadedModel:
    """Return a model that counts one session more: a loaded one if it is equal, or a new one.

    Equal are two whose files are the same, unchanged: a folder whose weights were replaced is another model.

    Raises:
        CheckpointError: The weights do not fit the recipe, or change again and again while they load.
        ConfigError: An option does not work on this machine.
    """
    for _ in range(_TRIES - 1):
        try:
            return _share(spec, options, source, device)
        except _ChangedError:
            logger.info(
                "%s: files in %s changed while they were loaded. They are loaded again.", spec.name, source.folder
            )
    return _share(spec, options, source, device)


def _share(spec: ModelSpec, options: LoadOptions, source: Source, device: str) -> LoadedModel:
    dtype = computed_dtype(options, device)
    while True:
        files = ModelFiles(source.folder, source.weights, source.adapter)
        key = None if options.private else (
            spec, str(source.folder), files.state, device, dtype, options.quantization,
            options.max_batch_tokens, options.threads, repr(options.device_map), repr(options.quantization_config),
            options.compile, options.dimensions,
        )  # fmt: skip
        with LOCK:
            shared, loading = SHARED.get(key), _LOADING.get(key)
            if shared is not None and shared.share():
                return shared
            mine = key is None or loading is None
            if mine:
                loading = Future()
                if key is not None:
                    _LOADING[key] = loading
        assert loading is not None
        if mine:
            _start(partial(_loaded_from, files, spec, options, source, device, dtype, key), key, loading)
            return _taken(loading)
        loading.result()  # its error is ours; what it loaded is there in the next round


def _loaded_from(
    files: ModelFiles,
    spec: ModelSpec,
    options: LoadOptions,
    source: Source,
    device: str,
    dtype: str,
    key: Hashable,
) -> LoadedModel:
    """Return a model that was made of these files and no others."""
    try:
        parts = build(spec, options, source, device, dtype)
    except Exception as error:
        if files.still_there():
            raise
        raise _changed(source) from error
    if not files.still_there():
        raise _changed(source)
    return LoadedModel(source.folder, *parts, key, files, options.quantization or options.quantization_config)


def _changed(source: Source) -> _ChangedError:
    return _ChangedError(
        f"Files in {source.folder} changed while they were loaded. Load again when they are written; write weights "
        "into another folder and rename it, so that nobody meets half of them."
    )


def _taken(loading: Future[LoadedModel]) -> LoadedModel:
    """Wait for a load of ours; if the wait is interrupted, what comes then is given back."""
    try:
        return loading.result()
    except BaseException:
        loading.add_done_callback(lambda late: None if late.exception() else late.result().release())
        raise


def _start(make: Callable[[], LoadedModel], key: Hashable, loading: Future[LoadedModel]) -> None:
    """Load in a thread that ends: OpenMP's threads, one team for each thread that ever computed, end with it.

    A team left behind in the caller's thread makes OpenMP count more threads than cores, and every later parallel
    region of the worker then starts with a system call: 35 ms instead of 20 for a short query of bge-base.
    """

    def load() -> None:
        try:
            process.forks_wait_for_end()
            model = make()
            model.share()
        except BaseException as error:
            _loaded(key, None)
            loading.set_exception(error)
        else:
            _loaded(key, model)
            loading.set_result(model)

    thread = threading.Thread(target=load, name="zh-retrieval-load", daemon=True)
    process.stopped_at_exit(thread)
    try:
        thread.start()
    except BaseException as error:
        _loaded(key, None)
        loading.set_exception(error)


def _loaded(key: Hashable, model: LoadedModel | None) -> None:
    with LOCK:
        if key is not None:
            _LOADING.pop(key, None)
            if model is not None:
                SHARED[key] = model


def close_all() -> None:
    """Free every shared model: sessions that are still open raise ClosedError when used, and so does what waits."""
    with LOCK:
        models = list(SHARED.values())
    for model in models:
        model.close()


process.in_child(_LOADING.clear)  # the threads that load exist in the parent alone
