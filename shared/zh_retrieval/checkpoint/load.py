"""A folder's weights as checked torch modules: body and head. No code of the folder is ever imported."""

from __future__ import annotations

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
from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import check_files, check_loaded, refuse_not_finite, weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers import attention
from zh_retrieval.models import family, qwen1
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.recipes.spec import ModelSpec

_QUIET = process.RenewedLock()


@dataclass(frozen=True, slots=True)
class Placement:
    """How the weights are to be loaded."""

    dtype: torch.dtype
    device_map: Any = None
    quantization_config: Any = None

    def arguments(self, implementation: str | None = None) -> dict[str, Any]:
        """Return the keyword arguments of transformers' `from_pretrained`."""
        extra = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        return {
            "dtype": self.dtype,
            "attn_implementation": implementation or attention.NAME,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # reported, and refused by us with the names
            "local_files_only": True,
            **{name: value for name, value in extra.items() if value is not None},
        }


def load_checkpoint(folder: Folder, spec: ModelSpec, placement: Placement, *, adapter: Path | None = None) -> Parts:
    """Return the checked parts of a folder's model, on the CPU or where `device_map` says.

    Args:
        folder: What `open_folder` gave for the recipe.
        spec: The recipe.
        placement: dtype and devices.
        adapter: Folder of a LoRA adapter to merge into the weights.

    Raises:
        CheckpointError: A weight is missing, left over, of the wrong shape or not finite, or the vocabulary has more
            words than the model.
    """
    attention.register()
    parts = _read(folder, family(spec.architecture, spec.scoring)(folder.config), placement)
    if adapter is not None:
        lora.merge(parts.body, adapter, qwen1.qwen2_layers if qwen1.is_qwen1(folder.config) else None)
    folder.check_vocabulary(_rows(parts.whole or parts.body))
    parts.body.config.use_cache = False  # type: ignore[union-attr]  # nothing is generated: keys and values go
    for module in (parts.body, parts.head):
        if module is not None:
            _check_finite(module, folder.files)
            module.eval().requires_grad_(False)
    return parts


def _read(folder: Folder, plan: Plan, placement: Placement) -> Parts:
    state = None
    if blocks.is_packed(folder.path):
        state = {name: torch.from_numpy(each.float32()) for name, each in read_tensors(folder.files).items()}
    arguments = {**placement.arguments(plan.attention), **plan.arguments}
    return plan.parts(load_pretrained(plan.cls, folder.path, plan.config, state_dict=state, **arguments))


def _rows(model: Any) -> int:
    try:
        rows: int = model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError) as error:
        raise CheckpointError(
            f"{model.config.model_type!r} is not supported: its word embeddings are not to be found ({error})."
        ) from error
    return rows


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
