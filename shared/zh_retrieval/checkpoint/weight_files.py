"""The weight files of a folder: which they are, what they hold, and what is wrong with them.

Names and shapes are read, values only where a fault is looked for.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from zh_retrieval.checkpoint import blocks
from zh_retrieval.checkpoint.pickled import ForeignPickleError, NoTableError, read_pickled
from zh_retrieval.checkpoint.tensors import stored_in
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import is_safe, weights_of

IGNORED = (
    "pooler.",
    "cls.",
    "lm_head.",  # where the body alone is an embedder; a language model that is scored has it in its own class
    "position_ids",
    "rotary_emb.inv_freq",
    "attn.masked_bias",
)  # published checkpoints carry these; no recipe reads them


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights are read from, the headers of safetensors files checked.

    Raises:
        CheckpointError: There is none, one is missing, lies outside the folder by its name, or is cut or no safetensors
            file at all; the message names it.
    """
    index, names = (None, [blocks.FILE]) if blocks.is_packed(folder) else weights_of(folder)
    if names is None:
        raise CheckpointError(f"{folder / str(index)} is no index of shards. Fetch the file again.")
    if not names:
        raise CheckpointError(f"{folder} holds no weights: expected model.safetensors, pytorch_model.bin or shards.")
    outside = [name for name in names if not is_safe(name)]
    if outside:
        raise CheckpointError(f"{folder / str(index)} names {outside[0]!r}, a file outside the folder.")
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, but {index} names it. Fetch it again.")
        if file.suffix == ".safetensors":
            shapes(file)
    return files


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a weight file by its name.

    Raises:
        CheckpointError: The file is broken, or is a pickle that holds more than tensors, which is not run.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        return {name: tensor.shape for name, tensor in read_pickled(file).tensors.items()}
    except ForeignPickleError as error:
        raise CheckpointError(f"{file} holds more than tensors and was not run: {error}. Do not use it.") from error
    except NoTableError as error:
        raise CheckpointError(f"{file} is no table of tensors. Fetch the file again.") from error
    except (SafetensorError, OSError, ValueError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} cannot be read: {cause}. Fetch the file again.") from error


def check_files(files: list[Path]) -> None:
    """Raise CheckpointError, naming the file, for the first one that is broken."""
    for file in files:
        shapes(file)


def find_tensor(files: list[Path], name: str) -> str:
    """Return the name of the file that holds, or by its index ought to hold, a tensor; else of all files."""
    for file in files:
        if any(_same(stored, name) for stored in shapes(file)):
            return file.name
    for index in sorted(files[0].parent.glob("*.index.json")):
        for stored, file_name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if _same(stored, name):
                return f"{file_name}, where {index.name} puts it"
    return " or ".join(file.name for file in files)


def _same(stored: str, name: str) -> bool:
    return f".{stored}".endswith(f".{name}") or f".{name}".endswith(f".{stored}")


def find_not_finite(files: list[Path]) -> tuple[str, str] | None:
    """Return the name of the first file and tensor in it that holds NaN or Inf; None if there is none."""
    for file in files:
        for name, tensor in stored_in(file):
            if tensor.floating and not bool(np.isfinite(tensor.float32()).all()):
                return file.name, name
    return None


def refuse_not_finite(files: list[Path], name: str, dtype: str) -> NoReturn:
    """Raise CheckpointError for a weight that is NaN or Inf here, naming the file and the tensor if they are so there.

    Args:
        files: The weight files.
        name: The weight.
        dtype: What it was read as.
    """
    found = find_not_finite(files)
    if found is None:
        raise CheckpointError(f"{files[0].parent}: {name!r} leaves the range of {dtype}. Use another.")
    raise CheckpointError(f"{files[0].parent / found[0]}: tensor {found[1]!r} holds NaN or Inf. Fetch the file again.")


def check_loaded(info: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError if a loading report, as transformers has it, names tensors that do not fit."""
    problems = {
        "missing": sorted(info["missing_keys"]),
        "wrong shape": sorted(name for name, *_ in info["mismatched_keys"]),
        "unexpected": sorted(k for k in info["unexpected_keys"] if not any(part in k for part in IGNORED)),
    }
    shapes = {name: f" {tuple(is_)} instead of {tuple(fits)}" for name, is_, fits in info["mismatched_keys"]}
    found = []
    for what, names in problems.items():
        if names:
            listed = ", ".join(name + shapes.get(name, "") for name in names[:5])
            found.append(f"{what}: {listed} ({len(names)}) in {find_tensor(weight_files(folder), names[0])}")
    if found or info.get("error_msgs"):
        raise CheckpointError(
            f"The weights in {folder} do not fit the model. {'; '.join([*found, *info.get('error_msgs', [])])}. "
            "Expected exactly the tensors that config.json describes."
        )


def count_parameters(files: list[Path]) -> int:
    """Return how many weights the files hold; one in a 4-bit block counts as one."""
    count = 0
    for file in files:
        for name, shape in shapes(file).items():
            if name.endswith(".q4"):
                count += 2 * math.prod(shape)
            elif not name.endswith((".scale", "position_ids", "inv_freq", "masked_bias")):
                count += math.prod(shape)
    return count
