"""What config.json says of a decoder body, and whether a graph computes all of it.

Axes: D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zh_retrieval.models.qwen1 import is_qwen1, qwen2_sizes

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_READ = {
    *_NEEDED, "attention_bias", "head_dim", "hidden_act", "layer_types", "max_position_embeddings", "mlp_bias",
    "model_type", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "sliding_window", "tie_word_embeddings", "use_sliding_window",
}  # fmt: skip
_HARMLESS = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "attn_implementation",
    "auto_map", "bos_token_id", "classifier_dropout", "custom_pipelines", "dtype", "eos_token_id", "id2label",
    "initializer_range", "is_decoder", "label2id", "max_window_layers", "name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict", "tokenizer_class",
    "torch_dtype", "transformers_version", "unk_token_id", "use_cache", "use_kernels",
}  # fmt: skip
"""What says nothing about the last hidden states. A key in neither set may, and is left to transformers."""


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """A decoder body.

    Attributes:
        vocab_size: Rows of the word embeddings.
        hidden: Hidden size.
        layers: How many.
        heads: Of queries.
        kv_heads: Heads of keys and values.
        head: Size of a head, D.
        intermediate_size: Feed-forward size.
        eps: Of the norms.
        frequencies: Radians per position of each pair of a head's numbers, float32 (D / 2,).
        window: A token sees at most so many tokens, itself included; None sees all before it.
        biased: Which of q, k, v and o have a bias.
        normed: Queries and keys are normalised per head.
        tied: The head is the word embeddings.
        limit: The most tokens of one sequence.
    """

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    intermediate_size: int
    eps: float
    frequencies: np.ndarray
    window: int | None
    biased: str
    normed: bool
    tied: bool
    limit: int

    @staticmethod
    def of(config: Mapping[str, Any]) -> DecoderSizes:
        """Return the sizes of a config.json that `has_decoder_graph`; what it leaves out is what transformers assumes.

        Raises:
            CheckpointError: It is of a Qwen-1 that Qwen2 does not compute.
        """
        given = _unified(config)
        family, heads = given["model_type"], given["num_attention_heads"]
        head = given.get("head_dim") or (128 if family == "qwen3" else given["hidden_size"] // heads)
        return DecoderSizes(
            vocab_size=given["vocab_size"],
            hidden=given["hidden_size"],
            layers=given["num_hidden_layers"],
            heads=heads,
            kv_heads=given.get("num_key_value_heads") or heads,
            head=head,
            intermediate_size=given["intermediate_size"],
            eps=given.get("rms_norm_eps", 1e-6),
            frequencies=_frequencies(given, head),
            window=given.get("sliding_window", 4096) if family == "mistral" else None,
            biased="qkv" if family == "qwen2" else "qkvo" if given.get("attention_bias") else "",
            normed=family == "qwen3",
            tied=bool(given.get("tie_word_embeddings", False)),
            limit=given.get("max_position_embeddings") or 8192,
        )


def has_decoder_graph(config: Mapping[str, Any]) -> bool:
    """Return True if a graph computes what a config.json describes, all of it."""
    if not is_qwen1(dict(config)) and config.get("model_type") not in _FAMILIES:
        return False
    given = _unified(config)
    kinds = given.get("layer_types") or ()
    return (
        all(given.get(name) for name in _NEEDED)
        and (given["model_type"] == "llama" or bool(given.get("num_key_value_heads")))
        and not given.keys() - _READ - _HARMLESS
        and given.get("hidden_act", "silu") == "silu"
        and not given.get("mlp_bias", False)
        and not (given["model_type"] == "mistral" and given.get("attention_bias", False))
        and not given.get("use_sliding_window", False)
        and all(kind == "full_attention" for kind in kinds)
        and _rope(given) is not None
    )


def _unified(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"model_type": "qwen2", **qwen2_sizes(dict(config))} if is_qwen1(dict(config)) else config


def _rope(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parameters of rotary positions that `_frequencies` knows; None for others."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }.get(str(kind))
    if needed is None or any(name not in rope for name in needed) or rope.pop("partial_rotary_factor", 1.0) != 1.0:
        return None
    theta = rope.pop("rope_theta", config.get("rope_theta") or 10000.0)
    if rope.keys() - {*needed, "type"} or not isinstance(theta, int | float):
        return None
    return {"kind": kind, "theta": theta, **{name: rope[name] for name in needed}}


def _frequencies(config: Mapping[str, Any], head: int) -> np.ndarray:
    """Return radians per position, float32 (D / 2,).

    Source of the scalings: transformers, modeling_rope_utils.py ("linear": all slower; "llama3": the slow ones slower).
    """
    rope = _rope(config) or {}
    base = 1.0 / rope["theta"] ** (np.arange(0, head, 2, dtype=np.float64) / head)
    if rope["kind"] == "linear":
        base = base / rope["factor"]
    if rope["kind"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        rounds = rope["original_max_position_embeddings"] * base / (2 * math.pi)  # within the first training's length
        share = np.clip((rounds - low) / (high - low), 0, 1)
        base = (1 - share) * base / rope["factor"] + share * base
    return np.asarray(base, dtype=np.float32)
