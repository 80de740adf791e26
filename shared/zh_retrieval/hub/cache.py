"""Where snapshots lie on this machine: our own cache and the caches that users of the hubs already have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zh_retrieval.hub.snapshot import MANIFEST, PLAN, missing_files, read_manifest, size_on_disk
from zh_retrieval.recipes.spec import ModelSpec, Source

Status = Literal["present", "partial", "absent"]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What is on disk of a model.

    Attributes:
        status: "present" can be loaded, "partial" lacks files, "absent" has none.
        path: The folder; None if absent.
        size: Bytes on disk.
        missing: Files that are lacking.
        source: Where the files came from.
    """

    status: Status
    path: Path | None = None
    size: int = 0
    missing: tuple[str, ...] = ()
    source: Source | None = None


def modelscope_root(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of ModelScope snapshots: `cache_dir`, else MODELSCOPE_CACHE, else ~/.cache/modelscope."""
    chosen = cache_dir or os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"
    return Path(chosen).expanduser()


def huggingface_root() -> Path:
    """Return the folder of Hugging Face snapshots: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"


def target(source: Source, revision: str | None, cache_dir: str | Path | None) -> Path:
    """Return the folder that a download of a source goes to; it has ModelScope's own layout."""
    owner, _, name = source.id.partition("/")
    label = re.sub(r"[^\w.+-]|^\.+$", "--", revision or source.revision or "master")
    folder = f"{owner}--{name}" if source.hub == "modelscope" else f"hf--{owner}--{name}"
    return modelscope_root(cache_dir) / "models" / folder / "snapshots" / label


def builtin_folder(source: Source) -> Path:
    """Return the folder of a model that ships inside the package."""
    return Path(__file__).parents[1] / "builtin" / source.id


def locate(spec: ModelSpec, *, revision: str | None = None, cache_dir: str | Path | None = None) -> SnapshotState:
    """Return the best snapshot of a model on this machine; asks no network and hashes nothing.

    A folder with our manifest counts as present if every file has its size; a folder of another program's cache if
    every needed file is there. Without `revision` any revision does.
    """
    partial = SnapshotState("absent")
    for source in spec.sources:
        if source.hub == "builtin":
            folder = builtin_folder(source)
            return SnapshotState("present", folder, size_on_disk(folder), source=source)
        for folder in candidates(source, revision, cache_dir):
            state = _state(folder, source)
            if state.status == "present":
                return state
            if partial.status == "absent" and state.status == "partial":
                partial = state
    return partial


def _state(folder: Path, source: Source) -> SnapshotState:
    if not folder.is_dir():
        return SnapshotState("absent")
    if (manifest := read_manifest(folder)) is not None:
        missing = manifest.wrong_sizes(folder) or missing_files(folder)
    elif (plan := read_manifest(folder, PLAN)) is not None:
        missing = plan.wrong_sizes(folder) or (MANIFEST,)
    else:
        missing = missing_files(folder)
    return SnapshotState("partial" if missing else "present", folder, size_on_disk(folder), missing, source)


def candidates(source: Source, revision: str | None, cache_dir: str | Path | None) -> Iterator[Path]:
    """Yield the folders that may hold a source, whether they exist or not, the best first."""
    own = target(source, revision, cache_dir)
    yield own
    if source.hub == "modelscope":
        yield from _modelscope_candidates(source, revision, modelscope_root(cache_dir), own)
    else:
        yield from _huggingface_candidates(source, revision)


def _modelscope_candidates(source: Source, revision: str | None, root: Path, own: Path) -> Iterator[Path]:
    owner, _, name = source.id.partition("/")
    if revision is not None:  # the legacy layouts do not say which revision they hold
        return
    yield from (folder for folder in _folders(own.parent) if folder != own)
    legacy = name.replace(".", "___")
    for base in (root, root / "hub"):
        yield base / "models" / owner / legacy
        yield base / owner / legacy


def _huggingface_candidates(source: Source, revision: str | None) -> Iterator[Path]:
    snapshots = huggingface_root() / f"models--{source.id.replace('/', '--')}" / "snapshots"
    wanted = revision or source.revision
    if wanted is not None:
        yield snapshots / wanted
    if revision is None:
        yield from (folder for folder in _folders(snapshots) if folder.name != wanted)


def _folders(parent: Path) -> list[Path]:
    return sorted(folder for folder in parent.iterdir() if folder.is_dir()) if parent.is_dir() else []
