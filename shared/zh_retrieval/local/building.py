"""A source and its recipe as an engine: loaded, placed on its device, with the readout of its task."""

from __future__ import annotations

import torch
from torch import nn

from zh_retrieval.checkpoint.load import Placement, load_checkpoint
from zh_retrieval.engine.compile import Compiled
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.hardware import cpu_computes_bfloat16, default_batch_tokens
from zh_retrieval.engine.torch_engine import Engine
from zh_retrieval.errors import ConfigError
from zh_retrieval.layers import readout
from zh_retrieval.layers.bert_cpu import fuse_gelu, join_projections, narrow_between, widen_residuals
from zh_retrieval.layers.onednn import prepack, quantize_int8
from zh_retrieval.local.source import Source
from zh_retrieval.models.base import Parts
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer


def build(
    spec: ModelSpec, options: LoadOptions, source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[Engine, TextTokenizer, int]:
    """Return the engine, the tokenizer, and the most tokens of one sequence.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
    """
    placement = Placement(dtype, options.device_map, options.quantization_config)
    own = options.path is not None
    checkpoint = load_checkpoint(source.weights, spec, placement, trusted_sizes=own, adapter=source.adapter)
    limit = min(checkpoint.parts.length_limit, spec.length_limit)
    return _engine(spec, checkpoint.parts, options, device, dtype, limit), checkpoint.tokenizer, limit


def _engine(
    spec: ModelSpec, parts: Parts, options: LoadOptions, device: torch.device, dtype: torch.dtype, limit: int
) -> Engine:
    if options.device_map is None:
        _place(spec, parts, options, device)
    else:
        device = input_device(parts.body, device)
    if spec.scoring == "classification" and parts.head is not None:
        read, width = readout.classified(parts.head), 1
    elif spec.scoring == "query-likelihood" and parts.head is not None:
        read, width = readout.query_likelihood(parts.head, parts.softcap), 1
    elif spec.pooling is not None:
        read, width = readout.pooled(spec.pooling), parts.width
    else:
        raise ConfigError(f"The entry of {spec.name} says neither pooling nor scoring.")
    alone = device.type == "cuda" and parts.packed and options.device_map is None
    return Engine(
        Compiled(parts.body) if options.compile else parts.body,
        read,
        device=device,
        dtype=dtype,
        width=width,
        max_batch_tokens=options.max_batch_tokens or default_batch_tokens(device, dtype, parts.body.config),
        position_offset=parts.position_offset,
        packed=parts.packed,
        graphs=QueryGraphs(parts.body, device, limit, parts.position_offset) if alone else None,
    )


def input_device(body: nn.Module, device: torch.device) -> torch.device:
    """Return where a body that `device_map` placed reads token ids; `device` if its embeddings wait on the host."""
    found: torch.device = body.get_input_embeddings().weight.device  # type: ignore[operator]
    return device if found.type == "meta" else found


def _place(spec: ModelSpec, parts: Parts, options: LoadOptions, device: torch.device) -> None:
    """Move the model to its device; on the CPU, lay out its weights. A language model's head stays as it is."""
    for module in (parts.body, parts.head):
        if module is not None:
            module.to(device)
    if device.type != "cpu" or options.quantization_config is not None:
        return
    modules = [parts.body, *([parts.head] if parts.head and spec.scoring == "classification" else [])]
    join_projections(parts.body)
    for module in modules:
        (quantize_int8 if options.quantization == "int8" else prepack)(module)
    fuse_gelu(parts.body)
    if cpu_computes_bfloat16():
        narrow_between(parts.body)
    if spec.scoring == "classification" and parts.body.dtype == torch.bfloat16:
        widen_residuals(parts.body)  # scores of one query lie close together, and their order is the result
