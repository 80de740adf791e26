"""Qwen-1 checkpoints as transformers' Qwen2.

Source of the map: modeling_qwen.py of Qwen-7B. Dynamic NTK and log-n scaling act only beyond `seq_length`, which is the
length limit here, so neither is needed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from zh_retrieval.errors import CheckpointError


def is_qwen1(config: dict[str, Any]) -> bool:
    """Return True if config.json describes a Qwen-1 checkpoint."""
    return config.get("model_type") == "qwen" or "QWenLMHeadModel" in (config.get("architectures") or ())


def qwen2_config(config: dict[str, Any]) -> Any:
    """Return the transformers `Qwen2Config` that computes what a Qwen-1 config describes; raises as `qwen2_sizes`."""
    from transformers import Qwen2Config

    return Qwen2Config(**qwen2_sizes(config), pad_token_id=None, bos_token_id=None, eos_token_id=None)


def qwen2_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of the Qwen2 that computes what a Qwen-1 config describes.

    Raises:
        CheckpointError: A size is missing, or the variant is one that Qwen2 does not compute.
    """
    if config.get("rotary_pct", 1.0) != 1.0 or not config.get("no_bias", True):
        raise CheckpointError("This Qwen-1 variant (partial rotary or biased projections) is unknown.")
    try:
        return {
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "intermediate_size": config["intermediate_size"] // 2,
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_attention_heads"],
            "max_position_embeddings": config.get("seq_length", 8192),
            "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
            "tie_word_embeddings": False,
            "use_sliding_window": False,
        }
    except KeyError as error:
        raise CheckpointError(f"config.json of a Qwen-1 checkpoint lacks {error}.") from error


_LAYERS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.w2": ("mlp.gate_proj",),
    "mlp.w1": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}


def qwen2_layers(name: str) -> tuple[str, ...]:
    """Return the Qwen2 layers that hold a Qwen-1 layer, in the order of its rows; () if it is none of Qwen-1's."""
    match = re.fullmatch(r"(?:transformer\.)?h\.(\d+)\.(.+)", name)
    if match is None:
        return ()
    return tuple(f"layers.{match[1]}.{layer}" for layer in _LAYERS.get(match[2], ()))


_OUTSIDE = {"wte": "embed_tokens", "ln_f": "norm"}
_NORMS = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}


def qwen2_names(name: str) -> tuple[str, ...]:
    """Return Qwen2's names, without "model.", of the tensors that a Qwen-1 tensor holds, in the order of its rows.

    A name that is none of Qwen-1's body stays as it is.
    """
    layer, _, kind = name.rpartition(".")
    inner = layer.removeprefix("transformer.")
    match = re.fullmatch(r"h\.(\d+)\.(ln_1|ln_2)", inner)
    if match is not None:
        return (f"layers.{match[1]}.{_NORMS[match[2]]}.{kind}",)
    found = (_OUTSIDE[inner],) if inner in _OUTSIDE else qwen2_layers(layer)
    return tuple(f"{ours}.{kind}" for ours in found) or (name,)


@lru_cache(maxsize=1)
def qwen1_class() -> Any:
    """Return a Qwen2ForCausalLM that reads Qwen-1 tensor names; ordinary Qwen2 models are not affected.

    The map is registered under the name of this subclass with transformers' public conversion hooks, so that shards,
    dtype, device_map and quantisation go on working.
    """
    from transformers import Qwen2ForCausalLM
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

    class ZhQwen1ForCausalLM(Qwen2ForCausalLM):
        """A Qwen-1 language model."""

    mapping: list[WeightConverter | WeightRenaming] = [
        WeightRenaming(r"^transformer\.wte\.", "model.embed_tokens."),
        WeightRenaming(r"^transformer\.ln_f\.", "model.norm."),
        WeightRenaming(r"^transformer\.h\.", "model.layers."),
        WeightRenaming(r"\.ln_1\.", ".input_layernorm."),
        WeightRenaming(r"\.ln_2\.", ".post_attention_layernorm."),
        *(
            WeightRenaming(rf"\.{re.escape(theirs)}\.", f".{ours[0]}.")
            for theirs, ours in _LAYERS.items()
            if len(ours) == 1
        ),
        *(
            WeightConverter(f"{theirs}.{kind}", [f"{part}.{kind}" for part in ours], operations=[Chunk(dim=0)])
            for theirs, ours in _LAYERS.items()
            if len(ours) > 1
            for kind in ("weight", "bias")
        ),
    ]
    register_checkpoint_conversion_mapping(ZhQwen1ForCausalLM.__name__, mapping, overwrite=True)
    return ZhQwen1ForCausalLM
