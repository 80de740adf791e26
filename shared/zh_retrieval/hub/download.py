"""A spec to a complete, verified local snapshot: local first, then ModelScope, Hugging Face last.

The folder being filled holds the plan of its files. Our manifest is written last: only then is the snapshot taken for
whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from zh_retrieval.errors import ConfigError, DownloadError
from zh_retrieval.hub import huggingface, modelscope
from zh_retrieval.hub.cache import SnapshotState, builtin_folder, candidates, locate, target
from zh_retrieval.hub.lock import exclusive
from zh_retrieval.hub.proxy import proxy_problem
from zh_retrieval.hub.reach import no_way
from zh_retrieval.hub.retry import AbsentError, RetryPolicy
from zh_retrieval.hub.snapshot import PLAN, Listing, Manifest, RemoteFile, is_safe, select, sha256, this_process
from zh_retrieval.options import offline, offline_switch
from zh_retrieval.progress import Bar
from zh_retrieval.recipes.catalogue import BUILTIN
from zh_retrieval.recipes.spec import ModelSpec, Source

_LOGGER = logging.getLogger(__name__)
_PATIENT = RetryPolicy()


class _Client(Protocol):
    """What a hub's module does."""

    def endpoint(self) -> str: ...
    def list_files(self, what: str, id: str, revision: str | None, policy: RetryPolicy) -> Listing: ...
    def fetch_files(
        self, what: str, id: str, revision: str | None, folder: Path, files: list[RemoteFile],
        start: Callable[[], Callable[[int], None]], policy: RetryPolicy,
    ) -> None: ...  # fmt: skip


_CLIENTS: dict[str, _Client] = {"modelscope": modelscope, "huggingface": huggingface}


def fetch(
    spec: ModelSpec,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
    show_progress: bool = False,
    also: Sequence[str] = (),
    policy: RetryPolicy = _PATIENT,
) -> Path:
    """Return the folder of a complete snapshot, downloading it if it is not on this machine.

    A complete snapshot is used without any network access, so a hub that is down does not matter. The sources of the
    spec are tried in order; the next one only when a hub says that the repository or revision does not exist.

    Raises:
        DownloadError: Nothing complete is here and the network is forbidden, or the download failed; the message
            names model, source, file, cause and remedy. What was downloaded is kept for the next try.
        ConfigError: The spec has no sources; or the cache would lie in a home folder, and the user has none.
    """
    if not spec.sources:
        raise ConfigError(f"The entry of {spec.name} names no hub: give path= with the folder of its weights.")
    if spec.sources[0].hub == "builtin":
        return builtin_folder(spec.sources[0])
    state = locate(spec, revision=revision, cache_dir=cache_dir, also=also)
    if state.status == "present" and state.path is not None:
        return _chosen(spec, state)
    if offline() if local_files_only is None else local_files_only:
        raise _not_here(spec, state, offline_switch() or "local_files_only", revision, cache_dir)
    absent = []
    for source in spec.sources:
        try:
            return _download(spec, source, revision, cache_dir, show_progress, policy, also)
        except AbsentError as error:
            absent.append(f"{source.hub} {source.id}: {error}")
        except DownloadError as error:
            raise DownloadError("; ".join([*absent, str(error)])) from error
    raise DownloadError(
        f"No source has {spec.name}{f' at revision {revision!r}' if revision else ''}. {'; '.join(absent)}. "
        "Check the revision, or give path= with a folder of your own."
    )


def _chosen(spec: ModelSpec, state: SnapshotState) -> Path:
    assert state.path is not None
    assert state.source is not None
    hub, id = state.source.hub, state.source.id
    _LOGGER.info("%s: the snapshot in %s (%s %s, %s)", spec.name, state.path, hub, id, state.why)
    return state.path


def _not_here(
    spec: ModelSpec, state: SnapshotState, switch: str, revision: str | None, cache_dir: str | Path | None
) -> DownloadError:
    lacking = f"{state.path} lacks {', '.join(state.missing)}" if state.path else "no folder of it was found"
    looked = [str(found.folder) for source in spec.sources for found in candidates(source, revision, cache_dir)]
    return DownloadError(
        f"{spec.name} is not complete on this machine and the network is not to be used ({switch}): {lacking}. "
        f"Run `zh-retrieval download {spec.name}` with network, or give path=. Looked in: {'; '.join(looked)}."
    )


def reachable(hub: Literal["modelscope", "huggingface"], timeout: float = 3.0) -> bool:
    """Return True if a hub answers within `timeout` seconds."""
    import requests

    try:
        requests.head(_CLIENTS[hub].endpoint(), timeout=timeout, allow_redirects=False)
    except (requests.RequestException, ValueError):  # ValueError: an address or a proxy that is none
        return False
    return True


def unusable_proxy(hub: Literal["modelscope", "huggingface"]) -> str | None:
    """Return why the proxy of the environment cannot work for a hub, and what to do; None if nothing is known."""
    return proxy_problem(hub, _CLIENTS[hub].endpoint())


def _download(
    spec: ModelSpec, source: Source, revision: str | None, cache_dir: str | Path | None, show_progress: bool,
    policy: RetryPolicy, also: Sequence[str],
) -> Path:  # fmt: skip
    folder = target(source, revision, cache_dir)
    what = f"{spec.name} from {source.hub} {source.id}"
    problem = proxy_problem(source.hub, _CLIENTS[source.hub].endpoint())
    if problem is not None:
        raise DownloadError(f"{what} could not be fetched: {problem}")
    nowhere = no_way(_CLIENTS[source.hub].endpoint())
    if nowhere is not None:
        raise DownloadError(f"{what} could not be fetched: {nowhere}. {_without_network(spec, source)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder, spec.name, show_progress):
            state = locate(spec, revision=revision, cache_dir=cache_dir, also=also)
            if state.status == "present":  # another process was quicker
                return _chosen(spec, state)
            _fill(spec, source, revision or source.revision, folder, what, show_progress, policy, also)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{what} cannot be written to {folder}: {error}. Free space, or choose another cache_dir."
        ) from error
    _LOGGER.info("%s: downloaded to %s", what, folder)
    return folder


def _without_network(spec: ModelSpec, source: Source) -> str:
    """Return every way to a model that needs no connection to its hub."""
    ways = [
        f"run `zh-retrieval download {spec.name}` elsewhere, copy the folder that it prints and give it as path=",
        "behind a proxy set HTTPS_PROXY",
        f"a mirror is named by {'MODELSCOPE_ENDPOINT' if source.hub == 'modelscope' else 'HF_ENDPOINT'}",
    ]
    others = [other for other in spec.sources if other.hub == "huggingface" and other.hub != source.hub]
    ways += [f"`hf download {other.id}` fetches it from Hugging Face, whose cache is read too" for other in others]
    last = f"Meanwhile {BUILTIN[0].name} is built in" if spec.task == "embedding" else "Then try again: it resumes"
    return f"What helps: {'; '.join(ways)}. {last}."


def _fill(
    spec: ModelSpec, source: Source, wanted: str | None, folder: Path, what: str, show_progress: bool,
    policy: RetryPolicy, also: Sequence[str],
) -> None:  # fmt: skip
    client = _CLIENTS[source.hub]
    listing = client.list_files(what, source.id, wanted, policy)
    files = _choose(spec, source, listing.files, also)
    folder.mkdir(exist_ok=True)
    plan = Manifest(source.hub, source.id, wanted, tuple(files), listing.commit, this_process())
    plan.write(folder, PLAN)
    total = sum(file.size or 0 for file in files)
    with Bar(show_progress, total=total, desc=spec.name, unit="B", unit_scale=True) as bar:
        revision = listing.commit or wanted  # a branch may move while files come
        client.fetch_files(what, source.id, revision, folder, files, bar.start, policy)
    verified = tuple(_verified(spec, source, folder, file) for file in files)
    Manifest(source.hub, source.id, wanted, verified, listing.commit).write(folder)
    (folder / PLAN).unlink(missing_ok=True)


def _choose(spec: ModelSpec, source: Source, files: list[RemoteFile], also: Sequence[str]) -> list[RemoteFile]:
    unsafe = [file.path for file in files if not is_safe(file.path)]
    if unsafe:
        raise DownloadError(
            f"{source.hub} lists {unsafe[0]!r} in {source.id} ({spec.name}), a path outside the snapshot. "
            "Nothing was written: do not use this source."
        )
    chosen = select(files)
    if not chosen:
        raise DownloadError(
            f"{source.hub} lists {len(files)} files in {source.id} ({spec.name}), but not a config, a vocabulary and "
            "weights. Choose another revision, or give path=."
        )
    lacking = [name for name in also if name not in {file.path for file in chosen}]
    if lacking:
        raise DownloadError(
            f"{source.hub} lists no {', '.join(lacking)} in {source.id}, which {spec.name} needs for what was asked. "
            "Choose another revision, or give path=."
        )
    return chosen


def _verified(spec: ModelSpec, source: Source, folder: Path, file: RemoteFile) -> RemoteFile:
    """Return the file with its true size and hash; a file that is not what the hub listed is removed."""
    local = folder / file.path
    found = local.stat().st_size if local.is_file() else None
    digest = sha256(local) if found is not None else None
    if found is None or (file.size is not None and found != file.size) or (file.sha256 and digest != file.sha256):
        local.unlink(missing_ok=True)
        raise DownloadError(
            f"{file.path} of {spec.name} from {source.hub} {source.id} is not what the hub lists: {found} bytes, "
            f"sha256 {digest}, expected {file.size} bytes, sha256 {file.sha256}. It was removed: download again."
        )
    return RemoteFile(file.path, found, digest)
