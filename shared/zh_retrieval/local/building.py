"""A source and its recipe as an engine: a graph where the CPU computes and there is one, else torch."""

from __future__ import annotations

import logging

from zh_retrieval.checkpoint.folder import Folder, open_folder
from zh_retrieval.engine.base import Engine
from zh_retrieval.errors import ConfigError
from zh_retrieval.local.source import Source
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


def build(
    spec: ModelSpec, options: LoadOptions, source: Source, device: str, dtype: str
) -> tuple[Engine, TextTokenizer, int]:
    """Return the engine, the tokenizer, and the most tokens of one sequence.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
    """
    folder = open_folder(source.weights, spec, trusted_sizes=options.path is not None)
    reason = why_torch(spec, options, folder, device, dtype)
    if reason is None:
        from zh_retrieval.local.graphs import build_graph

        engine, limit = build_graph(spec, options, folder, source.adapter, dtype)
        return engine, folder.tokenizer, limit
    if options.quantization is not None:
        raise ConfigError(f"quantization={options.quantization!r} cannot be had: {reason}. Leave it out.")
    if device == "cpu":
        logger.info("%s computes with torch, which is slower on a CPU: %s", spec.name, reason)
    import torch

    from zh_retrieval.local.torch_models import build_modules

    torch_dtype: torch.dtype = getattr(torch, dtype)
    modules, limit = build_modules(spec, options, folder, source.adapter, torch.device(device), torch_dtype)
    return modules, folder.tokenizer, limit


def why_torch(spec: ModelSpec, options: LoadOptions, folder: Folder, device: str, dtype: str) -> str | None:
    """Return why torch computes; None if OpenVINO does."""
    if device != "cpu":
        return f"{device} is no CPU"
    for option in ("device_map", "quantization_config"):
        if getattr(options, option) is not None:
            return f"{option} is transformers' own"
    if dtype == "float16":
        return "no graph computes in float16"
    try:
        from zh_retrieval.local.graphs import why_no_graph
    except ImportError as error:
        return f"OpenVINO cannot be imported ({error})"
    return why_no_graph(spec, folder.config)
