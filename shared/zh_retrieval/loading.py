"""A name and options to an encoder or a reranker."""

from __future__ import annotations

from typing_extensions import Unpack

from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.engine.hardware import resolve_device
from zh_retrieval.errors import ConfigError
from zh_retrieval.local.call import Limits
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.reranker import LocalReranker
from zh_retrieval.local.sharing import LoadedModel, close_all, share
from zh_retrieval.local.source import find_source
from zh_retrieval.options import LoadKwargs, LoadOptions, Overflow, documented
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec, Task

__all__ = ["close_all", "load_encoder", "load_reranker"]


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
        RemoteError: The server at `base_url` cannot be reached, or does not speak the dialect.
    """
    given = LoadOptions.given(**options)
    if given.base_url is not None:
        from zh_retrieval.remote.connect import connect_reranker

        return connect_reranker(model, dict(options), given)
    return LocalReranker(*_acquire(model, "reranking", given, show_progress))


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
    source, spec = find_source(spec, options, show_progress)
    model = share(spec, options, source, device)
    try:
        max_length = _max_length(spec, options, model.length_limit)
    except ConfigError:
        model.release()
        raise
    limits = Limits(queue=options.max_queue_tokens, when_full=options.when_full)
    return model, spec, max_length, options.overflow, limits


def _max_length(spec: ModelSpec, options: LoadOptions, limit: int) -> int:
    if options.max_length is None:
        return min(spec.max_length, limit)
    least = len(spec.prefix) + len(spec.suffix) + len(spec.separator) + 1
    if not least <= options.max_length <= limit:
        raise ConfigError(f"max_length={options.max_length} must be {least} to {limit} tokens for {spec.name}.")
    return options.max_length
