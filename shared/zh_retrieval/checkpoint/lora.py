"""LoRA adapters, merged into the weights as they load; peft knows the arithmetic (rank-stabilised, DoRA, PiSSA).

An adapter names the layers of the class it was trained on, with or without a head; here they are found again by their
last parts, and the layers of Qwen-1 through the map of the checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG = "adapter_config.json"
"""The file that makes a folder an adapter."""

Split = Callable[[str], tuple[str, ...]]
"""Name of a layer in the checkpoint -> names of the layers that hold it, in the order of its rows."""

_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?P<rest>\.weight)?$"
)


def base_name(adapter: Path) -> str:
    """Return what an adapter was trained on: a folder or a hub id."""
    try:
        name = json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{adapter / CONFIG} is no valid adapter config: {error}. Save the adapter again."
        ) from error
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{adapter / CONFIG} does not say base_model_name_or_path: the folder of the base model.")
    return name


def merge(body: nn.Module, adapter: Path, split: Split | None = None) -> None:
    """Add an adapter's update to the linear layers of `body`, in place.

    Raises:
        MissingExtraError: peft is not installed.
        CheckpointError: The adapter is not LoRA, cannot be read, or changes what `body` does not have.
    """
    try:
        from peft import LoraConfig, LoraModel, PeftConfig, load_peft_weights, set_peft_model_state_dict
    except ImportError as error:
        raise MissingExtraError(f'{adapter} is an adapter. Run: pip install "zh-retrieval[lora]"') from error
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        stored = load_peft_weights(str(adapter), device="cpu")
    except Exception as error:  # peft, safetensors and pickle raise errors of their own kinds
        raise CheckpointError(f"The adapter in {adapter} cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(
            f"{adapter} holds a {config.peft_type} adapter, expected LoRA. Merge it with its own program."
        )
    names: dict[str, tuple[str, ...]] = {}
    weights = _located(stored, dict(body.named_modules()), split, adapter, names)
    config.target_modules = sorted({key.rsplit(".lora_", 1)[0] for key in weights})
    config.rank_pattern = _of_layers(config.rank_pattern, "rank_pattern", names, adapter)
    config.alpha_pattern = _of_layers(config.alpha_pattern, "alpha_pattern", names, adapter)
    config.layers_to_transform = config.layers_pattern = config.modules_to_save = config.task_type = None
    config.exclude_modules = None
    config.inference_mode = True
    try:
        tuner = LoraModel(body, config, "default")
        set_peft_model_state_dict(body, weights)
        tuner.merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"The adapter in {adapter} does not fit its base model: {error}") from error


def _of_layers(
    pattern: dict[str, Any] | None, what: str, names: dict[str, tuple[str, ...]], adapter: Path
) -> dict[str, Any]:
    """Return what a pattern of peft's says, for each layer of `body` by its whole name.

    A key is an expression that the end of a layer's name matches, as the class that was trained has it; the first wins.
    """
    try:
        keys = {key: re.compile(rf"(.*\.)?({key})$") for key in pattern or {}}
    except re.error as error:
        raise CheckpointError(f"{adapter / CONFIG}: {what} has a key that is no expression: {error}.") from error
    unmatched = [key for key, expression in keys.items() if not any(map(expression.match, names))]
    if unmatched:
        raise CheckpointError(
            f"{adapter / CONFIG}: {what} names {unmatched[0][:200]!r}, but the adapter changes no such layer. Correct "
            "the key, or merge the adapter with its own program."
        )
    found: dict[str, Any] = {}
    for layer, places in names.items():
        key = next((key for key, expression in keys.items() if expression.match(layer)), None)
        if pattern and key is not None:
            found |= dict.fromkeys((f"^{re.escape(place)}" for place in places), pattern[key])
    return found


def _located(
    stored: dict[str, torch.Tensor],
    layers: dict[str, nn.Module],
    split: Split | None,
    adapter: Path,
    places: dict[str, tuple[str, ...]],
) -> dict[str, torch.Tensor]:
    """Return the weights under the names that `body` has for its layers; `places` gets these, by the adapter's own."""
    found: dict[str, torch.Tensor] = {}
    for key, value in stored.items():
        match = _KEY.match(key)
        if match is None:
            raise CheckpointError(f"{adapter} changes {key!r}, which is no LoRA update. Merge it with its own program.")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{adapter}: tensor {key!r} holds NaN or Inf. Save the adapter again.")
        names = split(match["layer"]) if split is not None else ()
        names = names or (_suffix(match["layer"], layers),)
        if any(name not in layers for name in names):
            raise CheckpointError(
                f"{adapter} changes {match['layer']!r}, which the base model's body does not have. Expected the "
                "adapter of the model that is named; a changed head must be merged with its own program."
            )
        places[match["layer"]] = names
        parts = [value] * len(names) if match["part"] == "lora_A" else value.chunk(len(names))
        for name, part in zip(names, parts, strict=True):
            found[f"{name}.{match['part']}{match['rest'] or ''}"] = part.contiguous()
    if not found:
        raise CheckpointError(f"{adapter} holds no LoRA weights.")
    return found


def _suffix(name: str, layers: dict[str, nn.Module]) -> str:
    """Return the longest end of a dotted name that is a layer, or the name."""
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in layers), name)
