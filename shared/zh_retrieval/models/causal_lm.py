"""Causal language models that score a query's likelihood: whatever transformers has, and Qwen-1 as its Qwen2.

Axes: R rows of hidden states, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zh_retrieval.errors import CheckpointError
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.qwen1 import is_qwen1, qwen1_class, qwen2_config


def causal_lm(config: dict[str, Any]) -> Plan:
    """Return the plan of a causal language model.

    Raises:
        CheckpointError: transformers has no such model type, it is no causal language model, or its config is refused.
    """
    if is_qwen1(config):
        parsed: Any = qwen2_config(config)
        cls: Any = qwen1_class()
    else:
        cls, parsed = _known(config)
    packed = bool(getattr(cls, "_supports_attention_backend", False))

    def parts(model: Any) -> Parts:
        name = next((name for name in (model.base_model_prefix, "model") if hasattr(model, name)), None)
        if name is None:
            raise CheckpointError(f"{parsed.model_type!r} is not supported: it has no body apart from its head.")
        text = parsed.get_text_config(decoder=True)
        text.use_cache = False  # nothing is generated
        body, head = getattr(model, name), OwnHead(model, name)
        return Parts(body, head, text.hidden_size, _length_limit(text), packed=packed, causal=packed, whole=model)

    return Plan(cls, parsed, parts, attention=None if packed else "eager")


def _known(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return the class and the parsed config of one of transformers' causal language models."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    family = str(config.get("model_type"))
    if family not in CONFIG_MAPPING:
        raise CheckpointError(f"transformers has no model type {family!r}.")
    try:
        parsed: Any = CONFIG_MAPPING[family].from_dict(config)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"config.json describes no valid {family!r}: {error}") from error
    if type(parsed) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(f"config.json describes {family!r}, which is no causal language model.")
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
    if cls.config_class is parsed.sub_configs.get("text_config"):  # the text model of one that sees or hears
        parsed = parsed.get_text_config()
    return cls, parsed


def _length_limit(config: Any) -> int:
    """Return the most tokens of a sequence whose result does not depend on the others of its batch.

    Beyond the length of their first training, "longrope" and "dynamic" position embeddings follow the longest sequence.
    """
    limit: int = getattr(config, "max_position_embeddings", None) or 8192
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if one.get("rope_type") in ("dynamic", "longrope"):
            limit = min(limit, one.get("original_max_position_embeddings") or limit)
    return limit


class OwnHead(nn.Module):
    """What a causal LM computes from its last hidden states on, by its own forward: head, scaling, caps.

    It is the model itself with hidden states in the place of its body, so that no list of models and their scalings is
    needed. Parameters and buffers are those of the model.
    """

    def __init__(self, model: Any, body: str) -> None:
        super().__init__()
        shell = copy.copy(model)
        for hooked in ("forward", "_hf_hook"):  # accelerate's, which run the model; those of the head stay
            shell.__dict__.pop(hooked, None)
        shell.__dict__["_modules"] = {**model._modules, body: _Given(model._modules[body])}
        self.shell = shell

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits (R, V) for hidden states (R, H)."""
        logits: torch.Tensor = self.shell(inputs_embeds=rows.unsqueeze(0), use_cache=False).logits
        return logits[0]

    def only(self, words: Sequence[int]) -> nn.Module:
        """Return a head that gives the logits of some words alone, (R, len(words)), computed in float32.

        Logits of 20 in bfloat16 have steps of 0.125.
        """
        return _Some(self, words)


class _Some(nn.Module):
    def __init__(self, whole: OwnHead, words: Sequence[int]) -> None:
        super().__init__()
        self._words, self.head, self._narrow = list(words), whole, None
        modules = whole.shell._modules
        output = whole.shell.get_output_embeddings()
        if type(output) is not nn.Linear or output.weight.is_meta:
            return  # quantised, or kept elsewhere by accelerate, whose hooks fetch it
        name = next((name for name, module in modules.items() if module is output), None)
        if name is None:
            return
        rows = nn.Linear(output.in_features, len(self._words), bias=output.bias is not None, device="meta")
        rows.weight = nn.Parameter(output.weight[self._words].float(), requires_grad=False)
        if output.bias is not None:
            rows.bias = nn.Parameter(output.bias[self._words].float(), requires_grad=False)
        shell = copy.copy(whole.shell)
        shell.__dict__["_modules"] = {**modules, name: rows}
        self._narrow, self._weight = (shell,), rows.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if self._narrow is None:
            logits: torch.Tensor = self.head(rows)
            return logits[:, self._words].float()
        wide = rows.to(self._weight.device, torch.float32).unsqueeze(0)
        narrow: torch.Tensor = self._narrow[0](inputs_embeds=wide, use_cache=False).logits
        return narrow[0].to(rows.device)


class _Given(nn.Module):
    """Stands for a body: the last hidden states are what comes in as embeddings, attributes are the body's."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._body = (body,)  # in a tuple it is no part of the head

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"][0], name)

    @property
    def decoder(self) -> _Given:
        return self  # OPT and BART ask a part of their body

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> _Outputs:
        return _Outputs((inputs_embeds,))


class _Outputs(tuple[torch.Tensor]):
    """A body's outputs: the last hidden states, and None for all else."""

    __slots__ = ()

    @property
    def last_hidden_state(self) -> torch.Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
