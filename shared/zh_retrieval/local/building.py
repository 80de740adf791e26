"""A source and its recipe as an engine: loaded, placed on its device, with the readout of its task."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from zh_retrieval.checkpoint.load import Checkpoint, Placement, load_checkpoint
from zh_retrieval.checkpoint.packed_check import PackedCheck
from zh_retrieval.engine.compile import Compiled
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.hardware import cpu_computes_bfloat16, default_batch_tokens
from zh_retrieval.engine.torch_engine import TorchEngine
from zh_retrieval.layers import readout
from zh_retrieval.layers.bert_cpu import fuse_gelu, join_projections, narrow_between, widen_residuals
from zh_retrieval.layers.onednn import prepack, quantize_int8
from zh_retrieval.local.source import Source
from zh_retrieval.models.base import Parts
from zh_retrieval.models.causal_lm import OwnHead
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer


def build(
    spec: ModelSpec, options: LoadOptions, source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[TorchEngine, TextTokenizer, int]:
    """Return the engine, the tokenizer, and the most tokens of one sequence.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
    """
    placement = Placement(dtype, options.device_map, options.quantization_config)
    own = options.path is not None
    checkpoint = load_checkpoint(source.weights, spec, placement, trusted_sizes=own, adapter=source.adapter)
    limit = min(checkpoint.parts.length_limit, spec.length_limit)
    check_dimensions(spec, options.dimensions, checkpoint.parts.width)
    if options.device_map is not None:
        device = input_device(checkpoint.parts.whole or checkpoint.parts.body, device)
    checkpoint = replace(checkpoint, parts=_placed(spec, checkpoint, options, device))
    return _engine(spec, checkpoint, options, device, dtype, limit), checkpoint.tokenizer, limit


def _placed(spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, device: torch.device) -> Parts:
    """Return the model on its device, a language model checked there, its weights laid out if that is the CPU."""
    parts = checkpoint.parts
    if options.device_map is None:
        for module in (parts.body, parts.head):
            if module is not None:
                module.to(device)
    check = PackedCheck(parts, checkpoint.tokenizer, device) if parts.whole is not None else None
    if check is not None:
        parts = check.choose()
    if device.type == "cpu" and options.device_map is None and options.quantization_config is None:
        _lay_out(spec, parts, options)
        if check is not None:
            check.repeat(parts, rounded=options.quantization == "int8")
    return parts


def _engine(
    spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, device: torch.device, dtype: torch.dtype, limit: int
) -> TorchEngine:
    parts = checkpoint.parts
    read, width = _readout(spec, checkpoint, options.dimensions)
    alone = device.type == "cuda" and parts.packed and options.device_map is None
    return TorchEngine(
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


def _readout(spec: ModelSpec, checkpoint: Checkpoint, dimensions: int | None) -> tuple[readout.Readout, int]:
    """Return what is read from the last hidden states, and the length of its rows."""
    parts = checkpoint.parts
    if spec.pooling is not None:
        return readout.pooled(spec.pooling, dimensions), dimensions or parts.width
    assert parts.head is not None  # the family of the recipe's scoring has one
    if spec.scoring == "classification":
        return readout.classified(parts.head), 1
    if spec.scoring == "yes-no":
        assert isinstance(parts.head, OwnHead)
        return readout.answer_margin(parts.head.only(checkpoint.tokenizer.answers)), 1
    return readout.query_likelihood(parts.head), 1


def _lay_out(spec: ModelSpec, parts: Parts, options: LoadOptions) -> None:
    """Lay out the weights for the CPU. A language model's head stays as it is, and so do models that run padded."""
    int8 = options.quantization == "int8"
    if not parts.packed and not int8:
        return
    modules = [parts.body, *([parts.head] if parts.head and spec.scoring == "classification" else [])]
    join_projections(parts.body)
    for module in modules:
        (quantize_int8 if int8 else prepack)(module)
    fuse_gelu(parts.body)
    if cpu_computes_bfloat16():
        narrow_between(parts.body)
    if spec.scoring == "classification" and parts.body.dtype == torch.bfloat16:
        widen_residuals(parts.body)  # scores of one query lie close together, and their order is the result
