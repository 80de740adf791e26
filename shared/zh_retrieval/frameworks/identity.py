"""What results depend on, and a key of it for caches of results."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from zh_retrieval.base import Model
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.fingerprint import RECIPE_VERSION, recipe_fields
from zh_retrieval.recipes.spec import ModelSpec


def identity(spec: ModelSpec, options: LoadOptions, model: Model | None = None) -> dict[str, Any]:
    """Return everything that changes a result, by name, with what "auto" means on this machine; loads no weights.

    `weights` is a hash of the content of every file that the model reads, and of no other: copies are equal wherever
    they lie. It is None, and the names of folder and revision count, where nothing is on this machine yet.

    Args:
        spec: The recipe.
        options: How it is loaded.
        model: What was loaded by them, if anything: what it was loaded from counts, whatever lies there now.

    Raises:
        CheckpointError: What was loaded was written to since then, so that nobody can say what it was.
    """
    if options.base_url is not None:
        return _remote(spec, options)
    from zh_retrieval.engine.hardware import computed_dtype, resolve_device

    weights = weights_here(spec, options, model)
    counted = {name for name, option in OPTIONS.items() if option.changes_results}
    if weights is not None:
        counted -= {"path", "revision"}
    chosen = {name: getattr(options, name) for name in counted}
    chosen |= {"dtype": computed_dtype(options, resolve_device(options.device))}
    return chosen | {"recipe": recipe_fields(spec), "recipe_version": RECIPE_VERSION, "weights": weights}


def _remote(spec: ModelSpec, options: LoadOptions) -> dict[str, Any]:
    """Return the same of a model on a server, which is asked: the same weights elsewhere give the same results."""
    from zh_retrieval.remote.connect import served_by

    served = served_by(spec, options)
    said = {name: getattr(served, name) for name in ("max_length", "dimension", "weights", "dtype", "quantization")}
    ours = {"overflow": options.overflow, "dimensions": options.dimensions, "dialect": options.dialect}
    return said | ours | {"recipe": recipe_fields(spec), "recipe_version": RECIPE_VERSION}


def cache_key(what: str, values: dict[str, Any]) -> str:
    """Return `what` and a hash of the values, in letters, digits, "." and "-": fit for file names on every system."""
    text = json.dumps(values, default=repr, sort_keys=True, ensure_ascii=True)
    return f"{re.sub('[^A-Za-z0-9.]+', '-', what)[:48]}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def weights_here(spec: ModelSpec, options: LoadOptions, model: Model | None) -> str | None:
    """Return a hash of the content of what the model reads; None where nothing is on this machine."""
    from zh_retrieval.local.session import Session

    if isinstance(model, Session):
        return model.weights_digest()
    from zh_retrieval.checkpoint.fingerprint import ModelFiles
    from zh_retrieval.local.source import source_here

    source = source_here(spec, options)
    files = None if source is None else ModelFiles(source.folder, source.weights, source.adapter)
    return files.digest() if files is not None and files.state else None
