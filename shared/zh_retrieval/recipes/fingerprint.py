"""Whether two sides mean the same by a model's name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from zh_retrieval.recipes.spec import ModelSpec

_DESCRIPTION = {"aliases", "sources", "parameters", "license", "score_range", "shape"}  # changes no result


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
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode()).hexdigest()[:16]
