"""The linear layer that gives each token of a text its weight: `sparse_linear.pt`, read without torch and not run.

Source: FlagEmbedding `finetune/embedder/encoder_only/m3/modeling.py`, `sparse_embedding`: relu(Linear(H -> 1)).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zh_retrieval.checkpoint.tensors import stored_in
from zh_retrieval.checkpoint.weight_files import shapes
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import SPARSE_HEAD
from zh_retrieval.recipes.spec import ModelSpec


def sparse_head(spec: ModelSpec, folder: Path, hidden: int) -> tuple[np.ndarray, float] | None:
    """Return weight, float32 (H,), and bias; None if the recipe has no sparse side, or the folder no file of it.

    Raises:
        CheckpointError: The file is broken, holds more than tensors, or is of a model of another size.
    """
    file = folder / SPARSE_HEAD
    if spec.sparse is None or not file.is_file():
        return None
    expected = {"weight": (1, hidden), "bias": (1,)}
    found = shapes(file)
    if found != expected:
        listed = ", ".join(f"{name[:40]} {shape}" for name, shape in list(found.items())[:5])
        raise CheckpointError(
            f"{file} holds {listed or 'nothing'}, expected weight (1, {hidden}) and bias (1,). Fetch the file again."
        )
    tensors = {name: stored.float32().copy() for name, stored in stored_in(file)}
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds NaN or Inf. Fetch the file again.")
    return tensors["weight"][0], float(tensors["bias"][0])
