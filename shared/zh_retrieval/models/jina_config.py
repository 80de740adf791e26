"""What config.json of a JinaBERT folder says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zh_retrieval.errors import CheckpointError

_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_USUAL = {"max_position_embeddings": 8192, "type_vocab_size": 2, "layer_norm_eps": 1e-12}


def jina_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes; what config.json leaves out is what upstream's configuration class assumes.

    Raises:
        CheckpointError: It is not the variant with ALiBi and GEGLU, or a size is missing.
    """
    found = (config.get("position_embedding_type"), config.get("feed_forward_type"))
    if found != ("alibi", "geglu"):
        raise CheckpointError(f"config.json says positions and feed-forward {found}, expected ('alibi', 'geglu').")
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise CheckpointError(f"config.json of a JinaBERT folder lacks {', '.join(missing)}.")
    return {name: config[name] for name in _NEEDED} | {name: config.get(name, value) for name, value in _USUAL.items()}
