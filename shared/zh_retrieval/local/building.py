"""A source and its recipe as an engine: a graph where the CPU computes and there is one, else torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zh_retrieval.checkpoint import conventions
from zh_retrieval.checkpoint.folder import Folder, open_folder
from zh_retrieval.engine.base import Engine
from zh_retrieval.engine.hardware import check_torch
from zh_retrieval.errors import ConfigError, ZhRetrievalError
from zh_retrieval.layers.memory import is_out_of_memory
from zh_retrieval.local.source import Source
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from zh_retrieval.engine.openvino.engine import OpenVinoEngine

logger = logging.getLogger(__name__)


def build(
    spec: ModelSpec, options: LoadOptions, source: Source, device: str, dtype: str
) -> tuple[Engine, TextTokenizer, int]:
    """Return the engine, the tokenizer, and the most tokens of one sequence.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
        MissingExtraError: torch computes this model, and is not installed.
    """
    dense = conventions.dense(source.folder)
    folder = open_folder(source.weights, spec, trusted_sizes=options.path is not None, dense=dense)
    reason = why_torch(spec, options, folder.config, device, dtype)
    if reason is None:
        engine, limit = _graph(spec, options, folder, source, dtype)
        return engine, folder.tokenizer, limit
    if options.quantization is not None:
        raise ConfigError(f"quantization={options.quantization!r} cannot be had: {reason}. Leave it out.")
    check_torch(f"{spec.name} computes with torch: {reason}")
    if device == "cpu":
        logger.info("%s computes with torch, which is slower on a CPU: %s", spec.name, reason)
    import torch

    from zh_retrieval.local.torch_models import build_modules

    torch_dtype: torch.dtype = getattr(torch, dtype)
    modules, limit = build_modules(spec, options, folder, source.adapter, torch.device(device), torch_dtype)
    return modules, folder.tokenizer, limit


def _graph(
    spec: ModelSpec, options: LoadOptions, folder: Folder, source: Source, dtype: str
) -> tuple[OpenVinoEngine, int]:
    """Return a graph's engine, and the most tokens of one sequence.

    OpenVINO may name bfloat16 and int8 among what a CPU computes in, and then find no kernel: where
    ONEDNN_MAX_CPU_ISA or a virtual machine hides instructions. So such a graph computes a few tokens first.

    Raises:
        ConfigError: What was asked for does not compute here.
    """
    from zh_retrieval.local.graphs import build_graph

    try:
        engine, limit = build_graph(spec, options, folder, source.adapter, dtype)
        if options.quantization is not None or dtype != "float32":
            engine.run([Tokens([0] * 8, targets=(0,) if spec.scoring == "query-likelihood" else ())])
        return engine, limit
    except RuntimeError as error:
        if isinstance(error, ZhRetrievalError) or is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[-200:]
        if options.quantization is None and options.dtype == "auto" and dtype != "float32":
            logger.warning("%s computes in float32: %s does not compute on this CPU (%s)", spec.name, dtype, said)
            return _graph(spec, options, folder, source, "float32")
        unset = "if ONEDNN_MAX_CPU_ISA is set, unset it."
        if options.quantization is None and dtype == "float32":
            raise ConfigError(f"{spec.name} does not compute on this CPU ({said}): {unset}") from error
        asked = f"dtype={dtype!r}" if options.quantization is None else f"quantization={options.quantization!r}"
        raise ConfigError(f"{asked} does not compute on this CPU ({said}). Leave it out; {unset}") from error


def check_installed(spec: ModelSpec, options: LoadOptions, device: str, dtype: str) -> None:
    """Raise MissingExtraError if a model of the catalogue computes with torch, which is not installed.

    The folder of the weights decides (`build`); the entry says what will be in it, before anything is downloaded.
    """
    if options.path is None and spec.shape:
        reason = why_torch(spec, options, {"model_type": spec.architecture, **spec.shape}, device, dtype)
        if reason is not None:
            check_torch(f"{spec.name} computes with torch: {reason}")


def why_torch(spec: ModelSpec, options: LoadOptions, config: Mapping[str, Any], device: str, dtype: str) -> str | None:
    """Return why torch computes what a config.json describes; None if OpenVINO does."""
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
    return why_no_graph(spec, config)
