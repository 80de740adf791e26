"""What config.json of a GTE folder says (`NewModel` in its makers' words, `GteModel` in transformers').

Sources: modeling.py and configuration.py of Alibaba-NLP/new-impl; gte.rs of text-embeddings-inference for the fixed NTK
scaling; transformers' `GteConfig` for `rope_parameters`.

Axes: D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zh_retrieval.errors import CheckpointError

_NEEDED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "type_vocab_size",
)  # fmt: skip
_COMPUTED = {  # what is computed here, and what upstream's configuration class assumes
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "hidden_act": "gelu",
    "pack_qkv": True,
    "logn_attention_scale": False,
}
_USUAL = {"max_position_embeddings": 8192, "layer_norm_eps": 1e-12}


def gte_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes; what config.json leaves out is what upstream's configuration class assumes.

    `type_vocab_size` of 0 means that there are no token types; `frequencies` are radians per position of each pair of
    a head's numbers, (D / 2,).

    Raises:
        CheckpointError: It is a variant that is not computed here, or a size is missing.
    """
    other = {name: config[name] for name, value in _COMPUTED.items() if config.get(name, value) != value}
    if other:
        expected = {name: _COMPUTED[name] for name in other}
        raise CheckpointError(f"config.json says {other}, expected {expected}.")
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise CheckpointError(f"config.json of a GTE folder lacks {', '.join(missing)}.")
    sizes = {name: config[name] for name in _NEEDED} | {name: config.get(name, value) for name, value in _USUAL.items()}
    head = config["hidden_size"] // config["num_attention_heads"]
    return {**sizes, "frequencies": _frequencies(config, head).tolist()}


def _frequencies(config: Mapping[str, Any], head: int) -> np.ndarray:
    """Return radians per position, float32 (D / 2,).

    NTK scaling by a factor f makes the base f times as large and then all frequencies f^(2 / D) times slower, for every
    length alike. transformers' own configuration says that as linear scaling of the larger base.
    """
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor", 1.0)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if kind not in ("default", "linear", "ntk") or rope.get("mixed_b") is not None or theta is None:
        raise CheckpointError(
            f"config.json says rotary positions {rope} with rope_theta {theta}, expected a rope_theta and no scaling, "
            "'linear' or 'ntk'."
        )
    slower = {"default": 1.0, "linear": factor, "ntk": factor ** (2 / head)}[kind]
    base = theta * factor if kind == "ntk" else theta
    return np.asarray(1.0 / base ** (np.arange(0, head, 2) / head) / slower, dtype=np.float32)
