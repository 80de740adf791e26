"""Which options fit a sparse model, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.registry import check_task
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sparse.settings import BM25Settings

SETTINGS = tuple(entry.name for entry in fields(BM25Settings))
"""What BM25 takes: k1, b, average_length."""


def sparse_options(spec: ModelSpec, options: Mapping[str, Any]) -> BM25Settings | LoadOptions:
    """Return the options of `load_sparse_encoder`, checked: BM25's settings, or how the model is loaded.

    None means that an option is not given.

    Raises:
        WrongTaskError: The model gives no sparse vectors.
        ConfigError: An option does not exist, does not fit the model, or has a wrong value.
    """
    check_task(spec, "sparse")
    if spec.task == "sparse":
        given = {name: value for name, value in options.items() if name in SETTINGS and value is not None}
        others = [name for name in options if name not in SETTINGS]
        if others:
            LoadOptions.given(**{name: value for name, value in options.items() if name in others})  # unknown, or wrong
            changed = [name for name in others if options[name] != OPTIONS[name].default]
            if changed:
                raise ConfigError(
                    f"{spec.name} has no weights: {', '.join(changed)} is no option of it. "
                    f"It takes {', '.join(SETTINGS)}."
                )
        return BM25Settings(**given)
    settings = [name for name in SETTINGS if options.get(name) is not None]
    if settings:
        raise ConfigError(f"{spec.name} is not BM25: {', '.join(settings)} is no option of it. Leave it out.")
    loading = LoadOptions.given(**{name: value for name, value in options.items() if name not in SETTINGS})
    loading.check("sparse")
    if loading.dimensions is not None and loading.base_url is None:  # there it says what a reduced copy has
        raise ConfigError(f"dimensions={loading.dimensions} is for dense vectors. Leave it out.")
    return loading
