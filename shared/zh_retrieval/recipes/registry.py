"""A name to its recipe."""

from __future__ import annotations

import difflib

from zh_retrieval.errors import UnknownModelError, WrongTaskError
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.spec import ModelSpec, Task


def get_spec(name: str) -> ModelSpec:
    """Return the entry whose name, alias, ModelScope id or Hugging Face id equals `name`, ignoring case.

    Raises:
        UnknownModelError: No entry matches; the message holds the closest names.
    """
    if isinstance(name, ModelSpec):
        return name
    known: dict[str, ModelSpec] = {}
    for spec in MODELS:
        for key in (spec.name, *spec.aliases, *(source.id for source in spec.sources)):
            known.setdefault(key.lower(), spec)
    if isinstance(name, str) and name.strip().lower() in known:
        return known[name.strip().lower()]
    close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
    hint = f"Did you mean {known[close[0]].name}?" if close else f"Known: {', '.join(s.name for s in MODELS)}."
    raise UnknownModelError(f"Unknown model {name!r}. {hint} For a folder of your own pass its recipe and path=.")


def check_task(spec: ModelSpec, task: Task) -> None:
    """Raise WrongTaskError unless the model does `task`; the message names what to use instead."""
    if spec.task != task:
        use = "load_encoder or an embedding class" if spec.task == "embedding" else "load_reranker or a reranker class"
        raise WrongTaskError(f"{spec.name} does {spec.task}, not {task}. Use {use}.")
