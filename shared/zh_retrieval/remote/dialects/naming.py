"""Whether what a server calls a model means the model that was asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zh_retrieval.errors import UnknownModelError
from zh_retrieval.recipes.registry import get_spec

if TYPE_CHECKING:
    from zh_retrieval.recipes.spec import ModelSpec


def means(name: str, spec: ModelSpec) -> bool | None:
    """Return whether a server's name for a model is one of the recipe's; None for a folder, whose name says nothing.

    Names are compared without case and without owner. A folder of a hub's cache has the model's name in it.
    """
    ids = [source.id for source in spec.sources]
    ours = {_bare(known) for known in (spec.name, *spec.aliases, *ids)}
    if name.lower() in {known.lower() for known in ids} or _bare(name) in ours:
        return True
    return None if _is_folder(name) and not _is_another(_bare(name)) else False


def _bare(name: str) -> str:
    """Return a name without the folder or the owner before it, as hubs' caches write it or not."""
    cached = re.search(r"models--[^/]*?--([^/]+)", name)
    last = cached[1] if cached else re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    return last.replace("___", ".").lower()


def _is_folder(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or re.match(r"[A-Za-z]:[/\\]", name) is not None


def _is_another(name: str) -> bool:
    try:
        get_spec(name)
    except UnknownModelError:
        return False
    return True
