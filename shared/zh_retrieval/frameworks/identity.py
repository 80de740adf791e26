"""What results depend on, and a key of it for caches of results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.snapshot import snapshot_revision
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.fingerprint import recipe_fields
from zh_retrieval.recipes.spec import ModelSpec

RECIPE_VERSION = 1
"""Raised when equal recipes, options and weights come to give other results than before."""


def identity(spec: ModelSpec, options: LoadOptions) -> dict[str, Any]:
    """Return everything that changes a result, by name, with what "auto" means on this machine; loads no weights.

    `weights` tells weights apart: the revision of the snapshot here, None where there is none or it does not say; for
    `path=` each file with its size and its time, so that a model that is trained again in its folder is another one.
    """
    if options.base_url is not None:
        return _remote(spec, options)
    from zh_retrieval.engine.hardware import computed_dtype, resolve_device

    chosen = {name: getattr(options, name) for name, option in OPTIONS.items() if option.changes_results}
    chosen |= {"dtype": computed_dtype(options, resolve_device(options.device))}
    recipe = {"recipe": recipe_fields(spec), "recipe_version": RECIPE_VERSION}
    return chosen | recipe | {"weights": _weights(spec, options)}


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


def _weights(spec: ModelSpec, options: LoadOptions) -> Any:
    if options.path is not None:
        return list(_files(Path(options.path).expanduser()))
    folder = locate(spec, revision=options.revision, cache_dir=options.cache_dir).path
    if folder is None:
        return None
    return snapshot_revision(folder)


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if file.is_file():
            status = file.stat()
            yield file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns
