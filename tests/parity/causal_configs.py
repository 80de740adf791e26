"""A tiny random checkpoint of every causal language model in transformers that a small configuration can build."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import seeded, wordpiece_files

LIMIT = 6_000_000  # parameters

SIZES: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "sliding_window": 8, "is_decoder": True,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_intermediate_size": 16,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_head_dim": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
"""Names of sizes in transformers' configs; a config keeps those it has no use for."""

_ALL_HEADS = {"num_key_value_heads": 4}  # keys and values come from one latent vector: no groups
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_CONV = {"layer_types": ["conv", "full_attention"] * 2}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
_INKLING = {
    "unpadded_vocab_size": 256, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
    "sliding_window_size": 8, "rel_extent": 16,
}  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash",
         "minicpm3", "sarvam_mla", "youtu"),
        _ALL_HEADS,
    ),
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "blenderbot": {"decoder_ffn_dim": 64, "encoder_ffn_dim": 64},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        **_TWO_KINDS, "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
    "falcon": {"head_dim": ...},
    "gemma2": {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3n_text": {
        **_TWO_KINDS, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 8,
        "laurel_rank": 8, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [64] * 4,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
        "num_kv_shared_layers": 0,
    },
    "gpt_neo": {
        "num_layers": 4, "num_hidden_layers": ..., "attention_types": [[["global", "local"], 2]], "window_size": 8
    },
    "gptj": {"rotary_dim": 8},
    "granite": {"logits_scaling": 8.0},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"] * 2},
    "inkling2_text": _INKLING,
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_d_state": 8,
    },
    "kimi_linear": {**_ALL_HEADS, "linear_head_dim": 8, "linear_num_heads": 4, "q_lora_rank": None},
    "lfm2": _CONV,
    "lfm2_moe": {**_CONV, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 8, "expand": 2},
    "olmoe": {"sliding_window": None},
    "phimoe": {"sliding_window": None},
    "plbart": {"decoder_attention_heads": 4},
    "prophetnet": {
        "num_hidden_layers": ..., "num_attention_heads": ..., "num_decoder_layers": 2, "num_encoder_layers": 2,
        "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4, "decoder_ffn_dim": 64,
    },
    "qwen3_5": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "reformer": {
        "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32], "feed_forward_size": 64, "attention_head_size": 8
    },
    "roc_bert": {
        "pronunciation_vocab_size": 256, "shape_vocab_size": 256, "pronunciation_embed_dim": 8, "shape_embed_dim": 8
    },
    "whisper": {"decoder_attention_heads": 4, "decoder_ffn_dim": 64},
    "xlm": {"causal": True},
    "xlstm": {"v_head_dim": ..., "head_dim": ..., "qk_head_dim": ..., "num_heads": 4},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 1, "attention_head_dim": 16},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What a family needs besides, or instead; `...` leaves a size out."""


_EYES = {"hidden_size": 16, "intermediate_size": 32, "patch_size": 14}
WRAPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "vision_config": {**_EYES, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28},
            "mm_tokens_per_image": 4, "image_token_id": 250,
        },
    ),
    "qwen3_5": (
        "Qwen3_5ForConditionalGeneration",
        {
            "vision_config": {**_EYES, "depth": 1, "num_heads": 2, "out_hidden_size": 32,
                              "num_position_embeddings": 16},
            "image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253,
        },
    ),
}  # fmt: skip
"""Models that see, saved whole as published: the class that saves, and what it needs besides its text_config."""


class TooLargeError(Exception):
    """The configuration has parts that the small sizes do not reach."""


def families() -> list[str]:
    """Return the model types of transformers' causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def model_class(family: str) -> Any:
    """Return the class that transformers takes for a family."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]]


def build(family: str, folder: Path, **more: Any) -> Path:
    """Write a tiny checkpoint with a vocabulary of characters; raises whatever the family raises if it cannot be."""
    import transformers
    from transformers import CONFIG_MAPPING

    parser = CONFIG_MAPPING[family]
    sizes = {name: value for name, value in {**SIZES, **OWN.get(family, {}), **more}.items() if value is not ...}
    name, more = WRAPPED.get(family, ("", {}))
    saver = getattr(transformers, name) if name else model_class(family)
    if "text_config" in getattr(parser, "sub_configs", {}):
        sizes = {"text_config": sizes, "pad_token_id": 0, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            sketch = saver(parser(**sizes))
        count = sum(parameter.numel() for parameter in sketch.parameters())
        if count > LIMIT:
            raise TooLargeError(f"{family} has {count} parameters")
        seeded(saver(parser(**sizes))).save_pretrained(folder)
    wordpiece_files(folder)
    return folder
