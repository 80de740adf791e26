"""A snapshot folder as a checked model: body, head and vocabulary. No code of the folder is ever imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from zh_retrieval import process
from zh_retrieval.checkpoint import blocks, lora
from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import check_files, check_loaded, refuse_not_finite, weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers import attention
from zh_retrieval.models import family, kind, qwen1, reads
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer, build
from zh_retrieval.tokenization.vocabulary import load_vocabulary

_REDIRECTIONS = {"transformers_weights"}  # names another weights file, anywhere
_QUIET = process.RenewedLock()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, loaded on the CPU or where `device_map` says."""

    parts: Parts
    tokenizer: TextTokenizer


@dataclass(frozen=True, slots=True)
class Placement:
    """How the weights are to be loaded."""

    dtype: torch.dtype
    device_map: Any = None
    quantization_config: Any = None

    def arguments(self, implementation: str = attention.NAME) -> dict[str, Any]:
        """Return the keyword arguments of transformers' `from_pretrained`."""
        extra = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        return {
            "dtype": self.dtype,
            "attn_implementation": implementation,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # reported, and refused by us with the names
            "local_files_only": True,
            **{name: value for name, value in extra.items() if value is not None},
        }


def load_checkpoint(
    folder: Path, spec: ModelSpec, placement: Placement, *, trusted_sizes: bool, adapter: Path | None = None
) -> Checkpoint:
    """Return the checked model of a folder.

    Args:
        folder: Holds config.json, weights and vocabulary.
        spec: The recipe.
        placement: dtype and devices.
        trusted_sizes: False demands the recipe's own dimension (a downloaded snapshot); True follows the folder.
        adapter: Folder of a LoRA adapter to merge into the weights.

    Raises:
        CheckpointError: A file is missing or broken, the architecture is another one, a weight is missing, left over,
            of the wrong shape or not finite, or the vocabulary does not know Chinese.
    """
    config = read_config(folder)
    _check_architecture(config, spec, folder)
    width = config.get("hidden_size")
    if not trusted_sizes and spec.dimension is not None and width != spec.dimension:
        raise CheckpointError(
            f"{folder} has hidden_size {width}, but {spec.name} has {spec.dimension}: wrong snapshot."
        )
    if (folder / lora.CONFIG).is_file():  # transformers would apply it, but only where peft is installed
        raise CheckpointError(f"{folder} holds an adapter beside the weights. Merge it, or remove adapter_config.json.")
    tokenizer = build(load_vocabulary(folder), spec, folder)
    files = weight_files(folder)
    attention.register()
    parts = _read(folder, family(spec.architecture, spec.scoring)(config), placement)
    if adapter is not None:
        lora.merge(parts.body, adapter, qwen1.qwen2_layers if qwen1.is_qwen1(config) else None)
    _check_vocabulary(parts.whole or parts.body, tokenizer, folder)
    parts.body.config.use_cache = False  # type: ignore[union-attr]  # nothing is generated: keys and values go
    for module in (parts.body, parts.head):
        if module is not None:
            _check_finite(module, files)
            module.eval().requires_grad_(False)
    return Checkpoint(parts, tokenizer)


def _read(folder: Path, plan: Plan, placement: Placement) -> Parts:
    state = None
    if blocks.is_packed(folder):
        state = {name: torch.from_numpy(each.float32()) for name, each in read_tensors(weight_files(folder)).items()}
    arguments = {**placement.arguments(plan.attention), **plan.arguments}
    return plan.parts(load_pretrained(plan.cls, folder, plan.config, state_dict=state, **arguments))


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no config.json. Give the folder of a complete snapshot.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"), object_hook=_special_float)
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Fetch the file again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds {type(config).__name__}, expected a JSON object. Fetch the file again.")
    return {name: value for name, value in config.items() if name not in _REDIRECTIONS}


def _special_float(read: dict[str, Any]) -> Any:
    """Return the number that transformers writes as {"__float__": "Infinity"}, or what was read."""
    return float(read["__float__"]) if list(read) == ["__float__"] else read


def _check_architecture(config: dict[str, Any], spec: ModelSpec, folder: Path) -> None:
    if not reads(spec.architecture, config):
        raise CheckpointError(
            f"{folder} holds a {kind(config)!r} checkpoint, but {spec.name} is {spec.architecture!r}. "
            "Name the model whose recipe fits the folder."
        )


def _check_vocabulary(model: Any, tokenizer: TextTokenizer, folder: Path) -> None:
    try:
        embeddings = model.get_input_embeddings()
        rows, words = embeddings.weight.shape[0], tokenizer.tokenizer.get_vocab_size()
    except (NotImplementedError, AttributeError) as error:
        raise CheckpointError(
            f"{model.config.model_type!r} is not supported: its word embeddings are not to be found ({error})."
        ) from error
    if words > rows:
        raise CheckpointError(
            f"{folder} has {words} words in its vocabulary but {rows} embedding rows: wrong vocabulary."
        )


def _check_finite(module: nn.Module, files: list[Path]) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        if not bool(torch.isfinite(parameter.detach().sum(dtype=torch.float32))):
            refuse_not_finite(files, name, str(parameter.dtype))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar and printing a report; its settings are put back."""
    from transformers.utils import logging

    with _QUIET:
        bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def load_pretrained(cls: Any, folder: Path, config: Any, **arguments: Any) -> Any:
    """Return `cls` with the folder's weights; every weight is there, none is left over, all shapes fit.

    Raises:
        CheckpointError: Any of that is not so, or a file cannot be read.
    """
    state = arguments.pop("state_dict", None)
    source = None if state is not None else str(folder)
    try:
        with quiet():
            model, info = cls.from_pretrained(source, config=config, state_dict=state, **arguments)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        check_files(weight_files(folder))  # names the file if one is to blame
        raise CheckpointError(f"The weights in {folder} cannot be loaded: {error}") from error
    check_loaded(info, folder)
    return model
