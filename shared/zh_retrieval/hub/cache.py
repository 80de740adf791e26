"""Where snapshots lie on this machine: our own cache and the caches that users of the hubs already have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zh_retrieval.errors import ConfigError
from zh_retrieval.hub.snapshot import MANIFEST, PLAN, is_safe, missing_files, read_manifest, size_on_disk
from zh_retrieval.recipes.spec import ModelSpec, Source

Status = Literal["present", "partial", "absent"]

_HASH = re.compile(r"[0-9a-f]{7,40}")  # a commit, or its first digits


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What is on disk of a model.

    Attributes:
        status: "present" can be loaded, "partial" lacks files, "absent" has none.
        path: The folder; None if absent.
        size: Bytes on disk.
        missing: Files that are lacking.
        source: Where the files came from.
        why: What made this snapshot the one, of those that are here.
    """

    status: Status
    path: Path | None = None
    size: int = 0
    missing: tuple[str, ...] = ()
    source: Source | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder that may hold a snapshot, whether it exists or not, and what speaks for it."""

    folder: Path
    why: str


def modelscope_root(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of ModelScope snapshots: `cache_dir`, else MODELSCOPE_CACHE, else ~/.cache/modelscope.

    Raises:
        ConfigError: The user has no home folder, and it is needed.
    """
    return _expanded(cache_dir or os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope")


def huggingface_root() -> Path:
    """Return the folder of Hugging Face snapshots: what the environment says now, else what huggingface_hub says.

    Raises:
        ConfigError: The user has no home folder, and it is needed.
    """
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.path.expandvars(os.environ[name]))
    if os.environ.get("HF_HOME"):
        return _expanded(os.path.expandvars(os.environ["HF_HOME"])) / "hub"
    if os.environ.get("XDG_CACHE_HOME"):
        return _expanded(os.path.expandvars(os.environ["XDG_CACHE_HOME"])) / "huggingface" / "hub"
    from huggingface_hub import constants

    return _expanded(constants.HF_HUB_CACHE)


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{str(path)!r} needs a home folder, and this user has none: HOME is not set and the system knows no "
            "other. Set HOME, or give cache_dir."
        ) from error


def root_if_known(root: Callable[[], Path]) -> Path | None:
    """Return a cache's folder; None if it would lie in a home folder that the user does not have."""
    try:
        return root()
    except ConfigError:
        return None


def target(source: Source, revision: str | None, cache_dir: str | Path | None) -> Path:
    """Return the folder that a download of a source goes to; it has ModelScope's own layout."""
    owner, _, name = source.id.partition("/")
    label = re.sub(r"[^\w.+-]|^\.+$", "--", revision or source.revision or "master")
    folder = f"{owner}--{name}" if source.hub == "modelscope" else f"hf--{owner}--{name}"
    return modelscope_root(cache_dir) / "models" / folder / "snapshots" / label


def builtin_folder(source: Source) -> Path:
    """Return the folder of a model that ships inside the package."""
    return Path(__file__).parents[1] / "builtin" / source.id


def locate(
    spec: ModelSpec, *, revision: str | None = None, cache_dir: str | Path | None = None, also: Sequence[str] = ()
) -> SnapshotState:
    """Return the best snapshot of a model on this machine; asks no network and hashes nothing.

    A folder with our manifest counts as present if every file has its size; a folder of another program's cache if
    every needed file is there. Without `revision` any revision does: that of the recipe or the default branch first,
    then the one that Hugging Face's cache calls main, then the newest. `also` are files that it must have, too.
    """
    partial = SnapshotState("absent")
    for source in spec.sources:
        if source.hub == "builtin":
            folder = builtin_folder(source)
            return SnapshotState("present", folder, size_on_disk(folder), source=source, why="built in")
        for candidate in candidates(source, revision, cache_dir):
            state = _state(candidate, source, also)
            if state.status == "present":
                return state
            if partial.status == "absent" and state.status == "partial":
                partial = state
    return partial


def _state(candidate: Candidate, source: Source, also: Sequence[str]) -> SnapshotState:
    folder = candidate.folder
    if not folder.is_dir():
        return SnapshotState("absent")
    if (manifest := read_manifest(folder)) is not None:
        missing = manifest.wrong_sizes(folder) or missing_files(folder, also)
    elif (plan := read_manifest(folder, PLAN)) is not None:
        missing = plan.wrong_sizes(folder) or (MANIFEST,)
    else:
        missing = missing_files(folder, also)
    status: Status = "partial" if missing else "present"
    return SnapshotState(status, folder, size_on_disk(folder), missing, source, candidate.why)


def candidates(source: Source, revision: str | None, cache_dir: str | Path | None) -> Iterator[Candidate]:
    """Yield the folders that may hold a source, whether they exist or not, the best first, each once."""
    seen: set[Path] = set()
    for candidate in _candidates(source, revision, cache_dir):
        if candidate.folder not in seen:
            seen.add(candidate.folder)
            yield candidate


def _candidates(source: Source, revision: str | None, cache_dir: str | Path | None) -> Iterator[Candidate]:
    wanted = revision or source.revision
    root = root_if_known(lambda: modelscope_root(cache_dir))
    if root is not None:
        own = target(source, revision, cache_dir)
        yield Candidate(own, f"revision {wanted}" if wanted else "the default branch")
        if wanted is not None:
            yield from _of_commit(own.parent, wanted)
        if revision is None:
            yield from _newest_first(own.parent)
    if source.hub == "huggingface":
        yield from _huggingface_candidates(source, revision)
    elif root is not None and revision is None:  # the legacy layouts do not say which revision they hold
        owner, _, name = source.id.partition("/")
        for base in (root, root / "hub"):
            for folder in (base / "models" / owner, base / owner):
                yield Candidate(folder / name.replace(".", "___"), "a cache of an older ModelScope client")


def _huggingface_candidates(source: Source, revision: str | None) -> Iterator[Candidate]:
    root = root_if_known(huggingface_root)
    if root is None:
        return
    repository = root / f"models--{source.id.replace('/', '--')}"
    snapshots = repository / "snapshots"
    wanted = revision or source.revision
    if wanted is not None and is_safe(wanted):
        commit = _commit(repository, wanted)
        if commit is not None:
            yield Candidate(snapshots / commit, f"revision {wanted}, which is {commit} here")
        yield Candidate(snapshots / wanted, f"revision {wanted}")
        yield from _of_commit(snapshots, wanted)
    if revision is None:
        commit = _commit(repository, "main")
        if commit is not None:
            yield Candidate(snapshots / commit, "refs/main")
        yield from _newest_first(snapshots)


def _commit(repository: Path, name: str) -> str | None:
    """Return the commit that a Hugging Face cache has for a branch or tag; None if it has none."""
    try:
        commit = (repository / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if is_safe(commit) else None


def _of_commit(snapshots: Path, revision: str) -> Iterator[Candidate]:
    """Yield the one snapshot whose commit is `revision` or begins with it; none if several do."""
    if not _HASH.fullmatch(revision):
        return
    found = [folder for folder in _folders(snapshots) if any(c.startswith(revision) for c in _commits(folder))]
    if len(found) == 1:
        yield Candidate(found[0], f"commit {revision}")


def _commits(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    return [folder.name, manifest.commit] if manifest and manifest.commit else [folder.name]


def _newest_first(snapshots: Path) -> Iterator[Candidate]:
    folders = _folders(snapshots)
    for number, folder in enumerate(folders, 1):
        yield Candidate(folder, f"the newest of {len(folders)}" if number == 1 else f"number {number} by age")


def _folders(parent: Path) -> list[Path]:
    """Return the folders below `parent` by the time of their last change, the newest first, then by name."""
    try:
        found = [(-folder.stat().st_mtime_ns, folder.name, folder) for folder in parent.iterdir() if folder.is_dir()]
    except OSError:
        return []
    return [folder for *_, folder in sorted(found)]
