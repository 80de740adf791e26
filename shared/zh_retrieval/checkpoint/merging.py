"""A model with an adapter merged into it, as tensors: torch and peft do the work, and are gone afterwards."""

from __future__ import annotations

from pathlib import Path

import torch

from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.load import Placement, load_checkpoint
from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.checkpoint.tensors import from_module
from zh_retrieval.recipes.spec import ModelSpec

_LARGE = 4_000_000_000  # bytes of weight files from which on float32 would take more memory than there is


def merged_tensors(folder: Folder, spec: ModelSpec, adapter: Path) -> dict[str, Stored]:
    """Return the tensors of a folder with a LoRA adapter merged in, by transformers' names.

    Raises:
        CheckpointError: As `load_checkpoint`.
        MissingExtraError: peft is not installed.
    """
    large = sum(file.stat().st_size for file in folder.files) > _LARGE
    parts = load_checkpoint(folder, spec, Placement(torch.bfloat16 if large else torch.float32), adapter=adapter)
    if parts.whole is not None:
        return from_module(parts.whole)
    tensors = from_module(parts.body)
    if parts.head is not None:
        tensors |= {f"classifier.{name}": stored for name, stored in from_module(parts.head).items()}
    return tensors
