"""What makes results equal: a hash of a recipe, and a hash of all that a model computes with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from zh_retrieval.recipes.spec import ModelSpec

RECIPE_VERSION = 1
"""Raised when equal recipes, options and weights come to give other results than before."""

_DESCRIPTION = {
    "aliases", "sources", "parameters", "languages", "license", "notice", "score_range", "shape", "dense", "sparse",
}  # fmt: skip
"""What changes no vector; that of a dense layer is in the weights."""


def recipe_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return what of a recipe changes results, by name."""
    return {entry.name: getattr(spec, entry.name) for entry in fields(spec) if entry.name not in _DESCRIPTION}


def recipe_hash(spec: ModelSpec) -> str:
    """Return 16 hex digits that are equal if two recipes make the same of equal weights and texts.

    The sizes that follow the weights (`dimension`, the two limits) are not in it: a reduced copy has its own.
    """
    said = recipe_fields(spec)
    for name in ("dimension", "max_length", "length_limit"):
        del said[name]
    return _hash(said)


def results_hash(spec: ModelSpec, **values: Any) -> str:
    """Return 16 hex digits that are equal if a recipe and all values that decide about results are equal.

    Args:
        spec: The recipe, with what the folder of the weights says about itself.
        values: Weights, precision, lengths, ... by name; what is no JSON counts by its `to_dict()` or its repr.
    """
    return _hash({"recipe": recipe_hash(spec), "recipe_version": RECIPE_VERSION, **values})


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else repr(value)
