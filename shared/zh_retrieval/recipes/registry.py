"""A name to its recipe, and recipes of one's own.

`MODELS` is what the package brings and never changes; `all_specs` adds what this process registered.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import threading
from collections.abc import Iterable, Mapping

from zh_retrieval.errors import ConfigError, UnknownModelError, WrongTaskError
from zh_retrieval.recipes.catalogue import LEXICAL, MODELS
from zh_retrieval.recipes.spec import ModelSpec, Task

OWN_MODELS = "ZH_RETRIEVAL_MODELS"
"""Environment variable: modules, with commas, that register models of one's own. Imported at the first look-up of a
process, so that command line and worker processes know these names too."""

_USE: Mapping[Task, str] = {
    "embedding": "load_encoder or an embedding class",
    "reranking": "load_reranker or a reranker class",
    "sparse": "load_sparse_encoder or a class for sparse embeddings",
}
_SHOWN = 200  # characters of an unknown name that are looked at and shown
_LOCK = threading.RLock()  # a module that is imported while it is held registers its models
_imported = False


def _by_name(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    """Return the entries by every name in lower case; a hub id that two have in common means the first of them."""
    specs = tuple(specs)
    found = {name.lower(): spec for spec in specs for name in (spec.name, *spec.aliases)}
    for spec in specs:
        for source in spec.sources:
            found.setdefault(source.id.lower(), spec)
    return found


_registered: tuple[ModelSpec, ...] = ()
_known: Mapping[str, ModelSpec] = _by_name((*MODELS, *LEXICAL))  # replaced whole, so that readers need no lock


def register_model(spec: ModelSpec) -> None:
    """Make the name and the aliases of a recipe known to this process: to `get_spec`, `load_*`, adapters and commands.

    Hub ids may be those of another entry, for a second recipe of the same weights; they go on meaning that entry. Any
    thread may call this. Worker processes do not inherit it: see `OWN_MODELS`.

    Raises:
        ConfigError: `spec` is no ModelSpec, or a name of it is taken by a name, an alias or a hub id.
    """
    global _registered, _known  # noqa: PLW0603
    if not isinstance(spec, ModelSpec):
        raise ConfigError(f"register_model takes a ModelSpec, got {type(spec).__name__}.")
    _import_own_models()
    with _LOCK:
        names = [name.lower() for name in (spec.name, *spec.aliases)]
        for name in names:
            if name in _known or names.count(name) > 1:
                owner = _known[name].name if name in _known else spec.name
                raise ConfigError(
                    f"The name {name!r} is taken by the model {owner}. Register {spec.name!r} once, under names that "
                    "no model has."
                )
        _registered = (*_registered, spec)
        _known = _by_name((*MODELS, *LEXICAL, *_registered))


def all_specs() -> tuple[ModelSpec, ...]:
    """Return `MODELS` followed by what this process registered, in the order of registration."""
    _import_own_models()
    return (*MODELS, *_registered)


def get_spec(name: str | ModelSpec) -> ModelSpec:
    """Return the entry whose name, alias, ModelScope id or Hugging Face id equals `name`, ignoring case.

    A ModelSpec is returned as it is, so that whoever takes a name takes a recipe too.

    Raises:
        UnknownModelError: No entry matches; the message holds the closest names.
    """
    if isinstance(name, ModelSpec):
        return name
    _import_own_models()
    known = _known
    if isinstance(name, str) and name.strip().lower() in known:
        return known[name.strip().lower()]
    given = str(name)[:_SHOWN]
    raise UnknownModelError(
        f"Unknown model {repr(name)[:_SHOWN]}. {_hint(given.lower(), known)} For a folder of your own pass its recipe "
        "and path=. A model of your own is known where zh_retrieval.register_model was called: in every process, or "
        f"name its module in {OWN_MODELS}."
    )


def _hint(given: str, known: Mapping[str, ModelSpec]) -> str:
    """Return what is nearest: of a hub id or a folder the last part decides, as owners of mirrors are many."""
    last = re.split(r"[/\\]", given.rstrip("/\\"))[-1]
    names = {key.rpartition("/")[2]: spec for key, spec in list(known.items())[::-1]}  # of equal ones the first counts
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.6)
    if not close:
        return f"Known: {', '.join(spec.name for spec in all_specs())}."
    spec = names[close[0]]
    ids = [source.id for source in spec.sources if source.hub != "builtin"]
    nearest = difflib.get_close_matches(given, [id.lower() for id in ids], n=1, cutoff=0) if last != given else []
    id = next((f" ({id})" for id in ids if id.lower() in nearest), "")
    return f"Did you mean {spec.name}{id}?"


def registered(name: str) -> ModelSpec | None:
    """Return the entry of a name that this process registered; None for the package's own and for unknown names."""
    spec = _known.get(name.strip().lower())
    return spec if spec in _registered else None


def adopt(spec: ModelSpec) -> None:
    """Register a recipe that came from another process, unless it is known here already.

    Raises:
        ConfigError: Its name means another recipe here.
    """
    with _LOCK:
        if spec not in all_specs():
            register_model(spec)


def check_task(spec: ModelSpec, task: Task) -> None:
    """Raise WrongTaskError unless the model does `task`; the message names what to use instead."""
    if task == "sparse" and not spec.gives_sparse:
        able = ", ".join(known.name for known in (*LEXICAL, *all_specs()) if known.gives_sparse)
        raise WrongTaskError(f"{spec.name} gives no sparse vectors. These do: {able}.")
    if task not in (spec.task, "sparse"):
        raise WrongTaskError(f"{spec.name} does {spec.task}, not {task}. Use {_USE[spec.task]}.")


def _import_own_models() -> None:
    global _imported  # noqa: PLW0603
    if _imported:
        return
    with _LOCK:
        if _imported:
            return
        _imported = True  # first: the modules look names up themselves
        for module in filter(None, (part.strip() for part in os.environ.get(OWN_MODELS, "").split(","))):
            try:
                importlib.import_module(module)
            except ImportError as error:
                _imported = False
                raise ConfigError(
                    f"{OWN_MODELS} names {module!r}, which cannot be imported: {error}. Put its folder on PYTHONPATH."
                ) from error
