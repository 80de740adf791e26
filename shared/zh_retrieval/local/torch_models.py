"""A folder and its recipe as torch modules on their device, with the readout of its task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.load import Placement, load_checkpoint
from zh_retrieval.checkpoint.packed_check import PackedCheck
from zh_retrieval.checkpoint.sparse_head import sparse_head
from zh_retrieval.engine.compile import Compiled
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.hardware import default_batch_tokens
from zh_retrieval.engine.torch_engine import TorchEngine
from zh_retrieval.layers import readout
from zh_retrieval.layers.dense import DenseLayer
from zh_retrieval.local.source import is_copied
from zh_retrieval.models.base import Parts
from zh_retrieval.models.causal_lm import OwnHead
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer


def build_modules(
    spec: ModelSpec,
    options: LoadOptions,
    folder: Folder,
    adapter: Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[TorchEngine, int]:
    """Return the engine, and the most tokens of one sequence.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not work on this machine.
    """
    placement = Placement(dtype, options.device_map, options.quantization_config)
    parts = load_checkpoint(folder, spec, placement, adapter=adapter)
    theirs = options.device_map is not None or options.quantization_config is not None
    if device.type == "cpu" and not theirs and is_copied(options, folder.files):
        _own(parts)
    limit = min(parts.length_limit, spec.length_limit)
    check_dimensions(spec, options.dimensions, folder.vector(parts.width))
    if options.device_map is not None:
        device = input_device(parts.whole or parts.body, device)
    parts = _placed(parts, folder.tokenizer, options, device)
    head = sparse_head(spec, folder, parts.width)
    return _engine(spec, parts, folder, options, device, dtype, limit, head), limit


def _own(parts: Parts) -> None:
    """Copy what transformers maps from the files."""
    for module in (parts.body, parts.head):
        for parameter in module.parameters() if module is not None else ():
            parameter.data = parameter.data.clone()


def _placed(parts: Parts, tokenizer: TextTokenizer, options: LoadOptions, device: torch.device) -> Parts:
    """Return the model on its device, a language model checked there."""
    if options.device_map is None:
        for module in (parts.body, parts.head):
            if module is not None:
                module.to(device)
    return parts if parts.whole is None else PackedCheck(parts, tokenizer, device).choose()


def _engine(
    spec: ModelSpec, parts: Parts, folder: Folder, options: LoadOptions, device: torch.device,
    dtype: torch.dtype, limit: int, head: tuple[np.ndarray, float] | None,
) -> TorchEngine:  # fmt: skip
    read, width = _readout(spec, parts, folder, options.dimensions)
    if head is not None:
        read = readout.with_token_weights(read, torch.from_numpy(head[0]).to(device), head[1])
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
        causal=parts.causal and not options.compile,
        graphs=QueryGraphs(parts.body, device, limit, parts.position_offset) if alone else None,
    )


def input_device(body: nn.Module, device: torch.device) -> torch.device:
    """Return where a body that `device_map` placed reads token ids; `device` if its embeddings wait on the host."""
    found: torch.device = body.get_input_embeddings().weight.device  # type: ignore[operator]
    return device if found.type == "meta" else found


def _readout(spec: ModelSpec, parts: Parts, folder: Folder, dimensions: int | None) -> tuple[readout.Readout, int]:
    """Return what is read from the last hidden states, and the length of its rows."""
    if spec.pooling is not None:
        given = folder.dense
        dense = None if given is None else DenseLayer(given.weight, given.bias, tanh=given.tanh)
        return readout.pooled(spec.pooling, dimensions, dense), dimensions or folder.vector(parts.width)
    assert parts.head is not None  # the family of the recipe's scoring has one
    if spec.scoring == "classification":
        return readout.classified(parts.head), 1
    if spec.scoring == "yes-no":
        assert isinstance(parts.head, OwnHead)
        return readout.answer_margin(parts.head.only(folder.tokenizer.answers)), 1
    return readout.query_likelihood(parts.head), 1
