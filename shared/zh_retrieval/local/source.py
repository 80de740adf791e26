"""Which folders a model is loaded from: a hub's snapshot, a folder of the user, an adapter and its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zh_retrieval.checkpoint import conventions, lora
from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.download import fetch
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import ModelSpec

_COPIED = 2_000_000_000  # bytes of weights


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: the folder that was asked for, that of its weights, and that of an adapter."""

    folder: Path
    weights: Path
    adapter: Path | None = None


def is_copied(options: LoadOptions, files: list[Path]) -> bool:
    """Return True if weights are copied into memory of ours: who writes a file again changes, or cuts, maps of it.

    A hub's snapshot does not change; what is very large would take its size twice.
    """
    return options.path is not None and sum(file.stat().st_size for file in files) < _COPIED


class _AbsentError(Exception):
    """No snapshot of a model is on this machine."""


def find_source(
    spec: ModelSpec, options: LoadOptions, show_progress: bool, also: Sequence[str] = ()
) -> tuple[Source, ModelSpec]:
    """Return where the model comes from, and the recipe with what its folder says about itself.

    A snapshot of a hub is read as a folder of the user is: one folder gives the same results by name and by path.
    `also` are files that a snapshot must have, too.
    """

    def snapshot() -> Path:
        return fetch(
            spec,
            revision=options.revision,
            cache_dir=options.cache_dir,
            local_files_only=options.local_files_only,
            show_progress=show_progress,
            also=also,
        )

    return _source(spec, options, snapshot)


def source_here(spec: ModelSpec, options: LoadOptions) -> Source | None:
    """Return where the model would come from without a download; None if it is not on this machine."""

    def snapshot() -> Path:
        state = locate(spec, revision=options.revision, cache_dir=options.cache_dir)
        if state.status != "present" or state.path is None:
            raise _AbsentError
        return state.path

    if options.path is not None and not Path(options.path).expanduser().is_dir():
        return None
    try:
        return _source(spec, options, snapshot)[0]
    except _AbsentError:
        return None


def _source(spec: ModelSpec, options: LoadOptions, snapshot: Callable[[], Path]) -> tuple[Source, ModelSpec]:
    if options.path is None:
        folder = snapshot()
        weights, spec = conventions.follow(folder, spec)
        return Source(folder, weights), spec
    folder = Path(options.path).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"path={str(options.path)!r} is not a folder. Give the folder that holds config.json.")
    weights, spec = conventions.follow(folder, spec)
    if not (weights / lora.CONFIG).is_file() or (weights / "config.json").is_file():  # both: load_checkpoint refuses
        return Source(folder, weights), spec
    return Source(folder, _base(weights, spec, snapshot), adapter=weights), spec


def _base(adapter: Path, spec: ModelSpec, snapshot: Callable[[], Path]) -> Path:
    """Return the folder of the weights that an adapter was trained on."""
    name = lora.base_name(adapter)
    local = Path(name).expanduser()
    if (local / "config.json").is_file():
        return local.resolve()
    if name.lower() in {spec.name, *spec.aliases, *(source.id.lower() for source in spec.sources)}:
        return snapshot()
    raise CheckpointError(
        f"{adapter / lora.CONFIG} says that the adapter was trained on {name!r}: no folder here, and none of the hub "
        f"ids of {spec.name}. Put the folder of the base model into base_model_name_or_path."
    )
