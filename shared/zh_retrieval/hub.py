"""A spec to a complete, verified local snapshot: local first, then ModelScope, Hugging Face last.

The folder being filled holds a file `.incomplete`; our manifest is written last and only then is the snapshot taken
for whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from zh_retrieval.cache import builtin_folder, locate, target
from zh_retrieval.errors import DownloadError
from zh_retrieval.options import offline
from zh_retrieval.snapshot import Manifest, RemoteFile, is_safe, select, sha256
from zh_retrieval.specs import ModelSpec, Source

_ATTEMPTS = 4
_PAUSE = 1.0  # seconds before the second attempt; doubles
_LONGEST_PAUSE = 30.0
_FINAL = (401, 403)  # asking again does not help

Fetch = Callable[[Source, str | None, Path, list[RemoteFile], Any], None]


class _AbsentError(Exception):
    """The hub says that the repository or the revision does not exist."""


def fetch(
    spec: ModelSpec,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> Path:
    """Return the folder of a complete snapshot, downloading it if it is not on this machine.

    A complete snapshot is used without any network access, so a hub that is down does not matter. The sources of the
    spec are tried in order; the next one only when a hub says that the repository or revision does not exist.

    Raises:
        DownloadError: Nothing complete is here and the network is forbidden, or the download failed; the message
            names model, source, file, cause and remedy. What was downloaded is kept for the next try.
    """
    if spec.sources[0].hub == "builtin":
        return builtin_folder(spec.sources[0])
    state = locate(spec, revision=revision, cache_dir=cache_dir)
    if state.status == "present" and state.path is not None:
        return state.path
    if local_files_only or offline():
        lacking = f"{state.path} lacks {', '.join(state.missing)}" if state.path else "no folder of it was found"
        first = target(spec.sources[0], revision, cache_dir)
        raise DownloadError(
            f"{spec.name} is not complete on this machine and the network is not to be used: {lacking}. "
            f"Looked in {first} and the ModelScope and Hugging Face caches. "
            f"Run `zh-retrieval download {spec.name}` with network, or give path=."
        )
    absent = []
    for source in spec.sources:
        try:
            return _download(spec, source, revision, cache_dir, show_progress)
        except _AbsentError as error:
            absent.append(f"{source.hub} {source.id}: {error}")
    raise DownloadError(
        f"No source has {spec.name}{f' at revision {revision!r}' if revision else ''}. {'; '.join(absent)}. "
        "Check the revision, or give path= with a folder of your own."
    )


def reachable(hub: Literal["modelscope", "huggingface"], timeout: float = 3.0) -> bool:
    """Return True if a hub answers within `timeout` seconds."""
    import requests

    try:
        requests.head(_endpoint(hub), timeout=timeout, allow_redirects=False)
    except requests.RequestException:
        return False
    return True


def _endpoint(hub: str) -> str:
    if hub == "modelscope":
        url = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "https://modelscope.cn"
    else:
        url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return url if "://" in url else f"https://{url}"


def _download(
    spec: ModelSpec, source: Source, revision: str | None, cache_dir: str | Path | None, show_progress: bool
) -> Path:
    from filelock import FileLock

    folder = target(source, revision, cache_dir)
    wanted = revision or source.revision
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            state = locate(spec, revision=revision, cache_dir=cache_dir)
            if state.status == "present" and state.path is not None:  # another process was quicker
                return state.path
            files = _attempt(spec, source, "the list of files", lambda: _list(source, wanted))
            chosen = _choose(spec, source, files)
            (folder / ".incomplete").touch()
            with _Bar(sum(file.size or 0 for file in chosen), spec.name, show_progress) as bar:
                _attempt(spec, source, "files", lambda: _FETCH[source.hub](source, wanted, folder, chosen, bar))
            verified = tuple(_verified(spec, source, folder, file) for file in chosen)
            Manifest(source.hub, source.id, wanted, verified).write(folder)
            (folder / ".incomplete").unlink(missing_ok=True)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{spec.name} cannot be written to {folder}: {error}. Free space, or choose another cache_dir."
        ) from error
    return folder


def _choose(spec: ModelSpec, source: Source, files: list[RemoteFile]) -> list[RemoteFile]:
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


def _attempt(spec: ModelSpec, source: Source, what: str, action: Callable[[], Any]) -> Any:
    """Return what `action` returns, after up to 4 tries with growing pauses; typed errors for what does not pass."""
    pause = _PAUSE
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return action()
        except (_AbsentError, DownloadError):
            raise
        except Exception as error:
            causes = _causes(error)
            statuses = {_status(cause) for cause in causes}
            if any(isinstance(cause, OSError) and cause.errno in _DISK for cause in causes):
                raise OSError(*next(c for c in causes if isinstance(c, OSError) and c.errno in _DISK).args) from error
            if 404 in statuses or any(type(cause).__name__ in _NOT_THERE for cause in causes):
                raise _AbsentError("it does not exist there") from error
            if attempt == _ATTEMPTS or statuses & set(_FINAL):
                remedy = "Log in with a token that may read it." if statuses & set(_FINAL) else "Try again: it resumes."
                raise DownloadError(
                    f"{spec.name}: {what} of {source.hub} {source.id} could not be fetched after {attempt} "
                    f"tries: {_short(causes)}. {remedy}"
                ) from error
            time.sleep(min(max(pause, _retry_after(causes)), _LONGEST_PAUSE))
            pause *= 2
    raise AssertionError("unreachable")


_DISK = (28, 30, 13, 122)  # ENOSPC, EROFS, EACCES, EDQUOT
_NOT_THERE = ("NotExistError", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError")


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = [error]
    for cause in found:
        nested = [*getattr(cause, "failed_files", {}).values()] if hasattr(cause, "failed_files") else []
        for other in (*nested, cause.__cause__):
            if isinstance(other, BaseException) and other not in found:
                found.append(other)
    return found


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for value in (getattr(error, "status_code", None), getattr(response, "status_code", None)):
        if isinstance(value, int):
            return value
    return None


def _retry_after(causes: list[BaseException]) -> float:
    values = [getattr(cause, "retry_after", None) for cause in causes]
    return max((float(value) for value in values if isinstance(value, (int, float))), default=0.0)


def _short(causes: list[BaseException]) -> str:
    cause = causes[-1]
    return f"{type(cause).__name__}: {str(cause).splitlines()[0][:200] if str(cause) else 'no detail'}"


def _list(source: Source, revision: str | None) -> list[RemoteFile]:
    if source.hub == "modelscope":
        from modelscope_hub import HubApi

        listed = HubApi(endpoint=_endpoint("modelscope")).list_repo_files(source.id, "model", revision=revision)
        return [RemoteFile(file.path, file.size or None, file.sha256 or None) for file in listed if not file.is_dir]
    from huggingface_hub import HfApi

    info = HfApi().model_info(source.id, revision=revision, files_metadata=True)
    return [
        RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
    ]


def _fetch_modelscope(
    source: Source, revision: str | None, folder: Path, files: list[RemoteFile], bar: Callable[[int], None]
) -> None:
    from modelscope_hub import HubApi
    from modelscope_hub._download import ProgressCallback

    class Progress(ProgressCallback):
        def update(self, size: int) -> None:
            bar(size)

    HubApi(endpoint=_endpoint("modelscope")).download_repo(
        source.id,
        "model",
        revision=revision,
        local_dir=folder,
        file_list=[{"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in files],
        progress_callbacks=[Progress],
    )


def _fetch_huggingface(
    source: Source, revision: str | None, folder: Path, files: list[RemoteFile], bar: Callable[[int], None]
) -> None:
    from huggingface_hub import hf_hub_download

    for file in files:
        hf_hub_download(source.id, file.path, revision=revision, local_dir=folder)
        bar(file.size or 0)


_FETCH: dict[str, Callable[..., None]] = {"modelscope": _fetch_modelscope, "huggingface": _fetch_huggingface}


class _Bar:
    """One bar over the bytes of a snapshot; resumed bytes count as they are passed."""

    def __init__(self, total: int, name: str, show: bool) -> None:
        self._total, self._name, self._show = total, name, show
        self._bar: Any = None

    def __enter__(self) -> Callable[[int], None]:
        if self._show:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc=self._name, unit="B", unit_scale=True)
        return self._advance

    def _advance(self, size: int) -> None:
        if self._bar is not None:
            self._bar.update(size)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
