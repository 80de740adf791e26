"""Loaded models, shared by the whole process: equal requests get one set of weights, counted by who uses them."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from pathlib import Path

from zh_retrieval import process
from zh_retrieval.engine.base import Engine
from zh_retrieval.engine.hardware import computed_dtype
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.errors import ClosedError
from zh_retrieval.local.building import build
from zh_retrieval.local.source import Source
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer

_LOCK = process.held_over_fork(threading.RLock())  # a session may be collected while its thread holds this
_SHARED: dict[Hashable, LoadedModel] = {}
_LOADING: dict[Hashable, Future[LoadedModel]] = {}  # threads that ask for the same model together load it once


class LoadedModel:
    """Weights on a device with their worker; `share` for each session, `release` when it goes.

    Attributes:
        folder: Where the weights came from.
        scheduler: Merges the calls of all sessions.
        length_limit: The most tokens of one sequence.
    """

    def __init__(
        self, folder: Path, engine: Engine, tokenizer: TextTokenizer, length_limit: int, key: Hashable = None
    ) -> None:
        self.folder = folder
        self.scheduler = Scheduler(engine)
        self.length_limit = length_limit
        self._parts: tuple[Engine, TextTokenizer] | None = engine, tokenizer
        self._key = key
        self._shares = 0

    @property
    def engine(self) -> Engine:
        """Return what runs batches.

        Raises:
            ClosedError: The weights are free.
        """
        return self._open()[0]

    @property
    def tokenizer(self) -> TextTokenizer:
        """Return vocabulary and special tokens; raises as `engine`."""
        return self._open()[1]

    def _open(self) -> tuple[Engine, TextTokenizer]:
        if (parts := self._parts) is None:
            raise ClosedError("The model was closed. Load it again.")
        return parts

    def share(self) -> bool:
        """Count one more session; False if the model was given up meanwhile."""
        with _LOCK:
            if self.scheduler.closed:
                return False
            self._shares += 1
            return True

    def release(self) -> None:
        """Count one session less; the last one frees the weights. Made for finalizers: nothing is waited for."""
        if self._given_up():
            self.scheduler.retire()

    def close_share(self) -> None:
        """Count one session less; the last one fails what waits in other threads, and frees the weights."""
        if self._given_up():
            self.close()

    def close(self) -> None:
        """Free the weights; what waits fails with ClosedError."""
        self._forget()
        self.scheduler.close()

    def _given_up(self) -> bool:
        with _LOCK:
            self._shares -= 1
            if self._shares > 0:
                return False
            self._forget()
            return True

    def _forget(self) -> None:
        with _LOCK:
            self._parts = None
            if _SHARED.get(self._key) is self:
                del _SHARED[self._key]


def share(spec: ModelSpec, options: LoadOptions, source: Source, device: str) -> LoadedModel:
    """Return a model that counts one session more: a loaded one if it is equal, or a new one.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
    """
    dtype = computed_dtype(options, device)
    key = None if options.private else (
        spec, str(source.folder), options.revision, device, dtype, options.quantization,
        options.max_batch_tokens, options.threads, repr(options.device_map), repr(options.quantization_config),
        options.compile, options.dimensions,
    )  # fmt: skip
    while True:
        with _LOCK:
            shared, loading = _SHARED.get(key), _LOADING.get(key)
            if shared is not None and shared.share():
                return shared
            mine = key is None or loading is None
            if mine:
                loading = Future()
                if key is not None:
                    _LOADING[key] = loading
        assert loading is not None
        if mine:
            _start(spec, options, source, device, dtype, key, loading)
            return _taken(loading)
        loading.result()  # its error is ours; what it loaded is there in the next round


def _taken(loading: Future[LoadedModel]) -> LoadedModel:
    """Wait for a load of ours; if the wait is interrupted, what comes then is given back."""
    try:
        return loading.result()
    except BaseException:
        loading.add_done_callback(lambda late: None if late.exception() else late.result().release())
        raise


def _start(
    spec: ModelSpec,
    options: LoadOptions,
    source: Source,
    device: str,
    dtype: str,
    key: Hashable,
    loading: Future[LoadedModel],
) -> None:
    """Load in a thread that ends: OpenMP's threads, one team for each thread that ever computed, end with it.

    A team left behind in the caller's thread makes OpenMP count more threads than cores, and every later parallel
    region of the worker then starts with a system call: 35 ms instead of 20 for a short query of bge-base.
    """

    def load() -> None:
        try:
            process.forks_wait_for_end()
            model = LoadedModel(source.folder, *build(spec, options, source, device, dtype), key)
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
    with _LOCK:
        if key is not None:
            _LOADING.pop(key, None)
            if model is not None:
                _SHARED[key] = model


def close_all() -> None:
    """Free every shared model: sessions that are still open raise ClosedError when used, and so does what waits."""
    with _LOCK:
        models = list(_SHARED.values())
    for model in models:
        model.close()


process.in_child(_LOADING.clear)  # the threads that load exist in the parent alone
