"""The dense layer after pooling in a folder of sentence-transformers: `2_Dense`, a linear layer with tanh or without.

It is never rounded and always computed in float32: each vector passes through it, and it is 1 % of a model at most.

Source of the file names, keys and defaults: sentence-transformers 2 to 6, `Dense`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import check_files, refuse_not_finite, weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import weights_of

_TANH = {  # a class is named by where it is, or by where it is imported from
    "torch.nn.modules.activation.Tanh": True,
    "torch.nn.Tanh": True,
    "torch.nn.modules.linear.Identity": False,
    "torch.nn.Identity": False,
}
_PLACE = "sentence_embedding"  # what a layer after pooling reads and writes


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer: O numbers of I.

    Attributes:
        weight: float32 (O, I).
        bias: float32 (O,); None without one.
        tanh: True if the hyperbolic tangent follows.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    tanh: bool

    @property
    def outputs(self) -> int:
        """Return O."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """Return I."""
        return int(self.weight.shape[1])


def files_read(folder: Path) -> dict[str, Path]:
    """Return the files that `read_dense` reads, whether all exist or not, by their part in the layer."""
    _, names = weights_of(folder)
    return {name: folder / name for name in ("config.json", *(names or ()))}


def check_settings(folder: Path, config: Mapping[str, Any]) -> tuple[int, int, bool, bool]:
    """Return O, I, whether there is a bias, and whether tanh follows, of a layer's config.json.

    Raises:
        CheckpointError: It is another layer than a linear one after pooling, with tanh or nothing after it.
    """
    outputs, inputs = config.get("out_features"), config.get("in_features")
    if type(outputs) is not int or type(inputs) is not int or min(outputs, inputs) < 1:
        raise CheckpointError(_wrong(folder, "sizes", (outputs, inputs), "two positive whole numbers"))
    bias = config.get("bias", True)
    if type(bias) is not bool:
        raise CheckpointError(_wrong(folder, "bias", bias, "true or false"))
    activation = config.get("activation_function", "torch.nn.Tanh")
    if not isinstance(activation, str) or activation not in _TANH:
        raise CheckpointError(_wrong(folder, "activation_function", activation, "Identity or Tanh of torch.nn"))
    places = config.get("module_input_name", _PLACE), config.get("module_output_name") or _PLACE
    if places != (_PLACE, _PLACE):
        raise CheckpointError(_wrong(folder, "input and output", places, f"{_PLACE!r} for both"))
    if config.get("use_residual", False) is not False:
        raise CheckpointError(_wrong(folder, "use_residual", config["use_residual"], "none such"))
    return outputs, inputs, bias, _TANH[activation]


def read_dense(folder: Path, config: Mapping[str, Any]) -> Dense:
    """Return the layer of a folder, copied: a file that changes later does not show.

    Raises:
        CheckpointError: The weights are missing, broken, not finite, or not those that config.json describes.
    """
    outputs, inputs, bias, tanh = check_settings(folder, config)
    files = weight_files(folder)
    check_files(files)
    tensors = read_tensors(files)
    expected = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if bias else {})
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        listed = ", ".join(f"{name[:80]} {shape}" for name, shape in list(found.items())[:5])
        raise CheckpointError(f"{folder} holds {listed or 'no tensor'}, but its config.json describes {expected}.")
    arrays = {name: np.array(tensor.float32()) for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            refuse_not_finite(files, name, "float32")
    return Dense(arrays["linear.weight"], arrays.get("linear.bias"), tanh)


def _wrong(folder: Path, what: str, given: object, expected: str) -> str:
    return (
        f"{folder / 'config.json'} describes a dense layer with {what} {str(given)[:80]!r}, expected {expected}. "
        "Nothing else is computed here."
    )
