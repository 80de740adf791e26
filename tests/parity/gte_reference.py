"""transformers' own GTE for a folder as its makers publish it, which transformers reads with remote code alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def config(folder: Path) -> Any:
    """Return transformers' configuration: NTK scaling, which it does not know, as linear scaling of a larger base."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "GteConfig"):
        pytest.skip("this transformers has no GTE")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = {name: value for name, value in said.items() if name not in ("architectures", "auto_map", "model_type")}
    scaling, theta = said.pop("rope_scaling", None), said.pop("rope_theta", None)
    if scaling is not None:
        factor, head = scaling["factor"], said["hidden_size"] // said["num_attention_heads"]
        linear = {"rope_type": "linear", "factor": factor ** (2 / head), "rope_theta": theta * factor}
        said["rope_parameters"] = linear
    elif theta is not None:
        said["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    return transformers.GteConfig(**said)


def body(folder: Path) -> Any:
    """Return the body."""
    return _loaded("GteModel", folder)


def classifier(folder: Path) -> Any:
    """Return the cross-encoder."""
    return _loaded("GteForSequenceClassification", folder)


def token_classifier(folder: Path) -> Any:
    """Return the body with a layer that gives each token a logit."""
    return _loaded("GteForTokenClassification", folder)


def _loaded(name: str, folder: Path) -> Any:
    said = config(folder)
    import transformers

    model, report = getattr(transformers, name).from_pretrained(
        folder, config=said, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    return model.eval()
