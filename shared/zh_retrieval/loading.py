"""A name and options to an encoder or a reranker."""

from __future__ import annotations

import logging

from typing_extensions import Unpack

from zh_retrieval.base import Encoder, Reranker, SparseEncoder
from zh_retrieval.engine.hardware import computed_dtype, resolve_device
from zh_retrieval.errors import ConfigError
from zh_retrieval.hub.snapshot import SPARSE_HEAD
from zh_retrieval.local.building import check_installed
from zh_retrieval.local.call import Limits
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.loaded import LoadedModel
from zh_retrieval.local.reranker import LocalReranker
from zh_retrieval.local.sharing import close_all, share
from zh_retrieval.local.source import find_source
from zh_retrieval.local.sparse_encoder import LocalSparseEncoder
from zh_retrieval.options import LoadKwargs, LoadOptions, Overflow, documented
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.rules import ARCHITECTURES, check_dimensions
from zh_retrieval.recipes.spec import ModelSpec, Task
from zh_retrieval.sparse.bm25 import BM25Encoder
from zh_retrieval.sparse.options import sparse_options
from zh_retrieval.sparse.settings import BM25Settings

__all__ = ["close_all", "load_encoder", "load_reranker", "load_sparse_encoder"]

logger = logging.getLogger(__name__)

_NOTICED: set[str] = set()  # models whose notice this process has said


@documented
def load_encoder(model: str | ModelSpec, *, show_progress: bool = False, **options: Unpack[LoadKwargs]) -> Encoder:
    """Return a handle on an embedding model, loading it if no equal one is loaded.

    Args:
        model: Name, alias or hub id (see `zh_retrieval.MODELS`), or a recipe itself.
        show_progress: Show a bar while downloading.
        {options}

    Raises:
        UnknownModelError: No such model.
        WrongTaskError: The model is a reranker.
        ConfigError: An option has a value that this model does not support.
        DownloadError: The weights are neither here nor to be had.
        CheckpointError: The weights do not fit the recipe.
        MissingExtraError: What computes this model here is in an extra that is not installed; said before any download.
        RemoteError: The server at `base_url` cannot be reached, or does not speak the dialect.
    """
    given = LoadOptions.given(**options)
    if given.base_url is not None:
        from zh_retrieval.remote.connect import connect_encoder

        return connect_encoder(model, dict(options), given)
    return LocalEncoder(*_acquire(model, "embedding", given, show_progress))


@documented
def load_reranker(model: str | ModelSpec, *, show_progress: bool = False, **options: Unpack[LoadKwargs]) -> Reranker:
    """Return a handle on a reranking model, loading it if no equal one is loaded.

    Args:
        model: Name, alias or hub id (see `zh_retrieval.MODELS`), or a recipe itself.
        show_progress: Show a bar while downloading.
        {options}

    Raises:
        UnknownModelError: No such model.
        WrongTaskError: The model is an embedding model.
        ConfigError: An option has a value that this model does not support.
        DownloadError: The weights are neither here nor to be had.
        CheckpointError: The weights do not fit the recipe.
        MissingExtraError: What computes this model here is in an extra that is not installed; said before any download.
        RemoteError: The server at `base_url` cannot be reached, or does not speak the dialect.
    """
    given = LoadOptions.given(**options)
    if given.base_url is not None:
        from zh_retrieval.remote.connect import connect_reranker

        return connect_reranker(model, dict(options), given)
    return LocalReranker(*_acquire(model, "reranking", given, show_progress))


@documented
def load_sparse_encoder(
    model: str | ModelSpec,
    *,
    k1: float | None = None,
    b: float | None = None,
    average_length: float | None = None,
    show_progress: bool = False,
    **options: Unpack[LoadKwargs],
) -> SparseEncoder:
    """Return a handle on a model of sparse vectors: "bm25-zh", which counts words, or one with weights for tokens.

    Args:
        model: Name, alias or hub id, or a recipe itself.
        k1: BM25 only: how much a term counts that is in a text more than once. Default: 1.2.
        b: BM25 only: how much the length of a text counts against it, 0 to 1. Default: 0.75.
        average_length: BM25 only: terms of a text on the average (`average_length`). Default: 256.
        show_progress: Show a bar while downloading.
        {options}

    Raises:
        UnknownModelError: No such model.
        WrongTaskError: The model gives no sparse vectors.
        ConfigError: An option has a value that this model does not support, or is none of it.
        DownloadError: The weights are neither here nor to be had.
        CheckpointError: The weights do not fit the recipe.
        MissingExtraError: What computes this model here is in an extra that is not installed; said before any download.
        RemoteError: The server at `base_url` cannot be reached, or does not speak the dialect.
    """
    spec = get_spec(model)
    given = sparse_options(spec, {"k1": k1, "b": b, "average_length": average_length, **options})
    if isinstance(given, BM25Settings):
        return BM25Encoder(spec, given)
    if given.base_url is not None:
        from zh_retrieval.remote.connect import connect_sparse_encoder

        return connect_sparse_encoder(spec, dict(options), given)
    return LocalSparseEncoder(*_acquire(spec, "sparse", given, show_progress))


def _acquire(
    name: str | ModelSpec, task: Task, options: LoadOptions, show_progress: bool
) -> tuple[LoadedModel, ModelSpec, int, Overflow, Limits]:
    spec = get_spec(name)
    check_task(spec, task)
    options.check(task)
    check_dimensions(spec, options.dimensions, None if options.path else spec.dimension)
    device = resolve_device(options.device)
    if options.quantization is not None and device != "cpu":
        raise ConfigError(
            f"quantization={options.quantization!r} runs on the CPU, not on {device}. Leave it out, or device='cpu'."
        )
    if options.compile and not device.startswith("cuda"):
        raise ConfigError(f"compile=True is for CUDA, not for {device}. Leave it out.")
    check_installed(spec, options, device, computed_dtype(options, device))
    _say_notice(spec)
    source, spec = find_source(spec, options, show_progress, _also(spec, task))
    model = share(spec, options, source, device)
    try:
        max_length = _max_length(spec, options, model.length_limit)
    except ConfigError:
        model.release()
        raise
    limits = Limits(queue=options.max_queue_tokens, when_full=options.when_full)
    return model, spec, max_length, options.overflow, limits


def _also(spec: ModelSpec, task: str) -> tuple[str, ...]:
    """Return the files that a task needs beside those of every task."""
    return (SPARSE_HEAD,) if task == "sparse" and not ARCHITECTURES[spec.architecture].sparse_layer else ()


def _say_notice(spec: ModelSpec) -> None:
    """Log what an entry asks its user to know, once for each model of a process, before anything is downloaded."""
    if spec.notice and spec.name not in _NOTICED:
        _NOTICED.add(spec.name)
        logger.warning("%s: %s", spec.name, spec.notice)


def _max_length(spec: ModelSpec, options: LoadOptions, limit: int) -> int:
    if options.max_length is None:
        return min(spec.max_length, limit)
    least = len(spec.prefix) + len(spec.suffix) + len(spec.separator) + 1
    if not least <= options.max_length <= limit:
        raise ConfigError(f"max_length={options.max_length} must be {least} to {limit} tokens for {spec.name}.")
    return options.max_length
