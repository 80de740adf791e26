"""The linear layer that gives each token of a text its weight, read without torch and not run.

It is a file of its own, `sparse_linear.pt` (bge-m3), or a layer of the checkpoint (gte-multilingual-base).

Sources: FlagEmbedding `finetune/embedder/encoder_only/m3/modeling.py`, `sparse_embedding`: relu(Linear(H -> 1));
gte-multilingual-base's config.json, `NewForTokenClassification` of one label, whose logits its makers' script passes
through a ReLU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zh_retrieval.checkpoint.conventions import follow
from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.tensors import stored_in
from zh_retrieval.checkpoint.weight_files import shapes, weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import SPARSE_HEAD
from zh_retrieval.recipes.rules import ARCHITECTURES
from zh_retrieval.recipes.spec import ModelSpec


def sparse_head(spec: ModelSpec, folder: Folder, hidden: int) -> tuple[np.ndarray, float] | None:
    """Return weight, float32 (H,), and bias; None if the recipe has no sparse side, or the folder no weights of it.

    Raises:
        CheckpointError: The file is broken, holds more than tensors, or is of a model of another size.
    """
    file = None if spec.sparse is None else _file(spec, folder.path, folder.files)
    if file is None:
        return None
    begin = _begin(spec)
    expected = {"weight": (1, hidden), "bias": (1,)}
    found = {name.removeprefix(begin): shape for name, shape in shapes(file).items() if name.startswith(begin)}
    if found != expected:
        listed = ", ".join(f"{begin}{name[:40]} {shape}" for name, shape in list(found.items())[:5])
        raise CheckpointError(
            f"{file} holds {listed or 'nothing'}, expected {begin}weight (1, {hidden}) and {begin}bias (1,). "
            "Fetch the file again."
        )
    tensors = {
        name.removeprefix(begin): stored.float32().copy() for name, stored in stored_in(file) if name.startswith(begin)
    }
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds NaN or Inf. Fetch the file again.")
    return tensors["weight"][0], float(tensors["bias"][0])


def lacks(spec: ModelSpec, folder: Path) -> str | None:
    """Return what a folder lacks to give sparse vectors by a recipe that has a sparse side; None: nothing."""
    layer = ARCHITECTURES[spec.architecture].sparse_layer
    weights, _ = follow(folder, spec)
    found = _file(spec, weights, weight_files(weights) if layer else [])
    return None if found is not None else layer or SPARSE_HEAD


def _begin(spec: ModelSpec) -> str:
    """Return what the names of the two tensors begin with."""
    layer = ARCHITECTURES[spec.architecture].sparse_layer
    return f"{layer}." if layer else ""


def _file(spec: ModelSpec, folder: Path, weights: list[Path]) -> Path | None:
    """Return the file that holds the layer; None if there is none."""
    begin = _begin(spec)
    if not begin:
        return folder / SPARSE_HEAD if (folder / SPARSE_HEAD).is_file() else None
    return next((file for file in weights if f"{begin}weight" in shapes(file)), None)
