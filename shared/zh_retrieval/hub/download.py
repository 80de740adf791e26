"""A spec to a complete, verified local snapshot: local first, then ModelScope, Hugging Face last.

The folder being filled holds the plan of its files. Our manifest is written last: only then is the snapshot taken for
whole.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zh_retrieval.errors import DownloadError
from zh_retrieval.hub.cache import builtin_folder, candidates, locate, target
from zh_retrieval.hub.retry import AbsentError, attempt
from zh_retrieval.hub.snapshot import PLAN, Manifest, RemoteFile, is_safe, select, sha256
from zh_retrieval.options import offline
from zh_retrieval.recipes.spec import ModelSpec, Source

_CLIENT = threading.Lock()


def fetch(
    spec: ModelSpec,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
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
    if offline() if local_files_only is None else local_files_only:
        lacking = f"{state.path} lacks {', '.join(state.missing)}" if state.path else "no folder of it was found"
        looked = [str(folder) for source in spec.sources for folder in candidates(source, revision, cache_dir)]
        raise DownloadError(
            f"{spec.name} is not complete on this machine and the network is not to be used: {lacking}. "
            f"Run `zh-retrieval download {spec.name}` with network, or give path=. Looked in: {'; '.join(looked)}."
        )
    absent = []
    for source in spec.sources:
        try:
            return _download(spec, source, revision, cache_dir, show_progress)
        except AbsentError as error:
            absent.append(f"{source.hub} {source.id}: {error}")
        except DownloadError as error:
            raise DownloadError("; ".join([*absent, str(error)])) from error
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
    what = f"{spec.name} from {source.hub} {source.id}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            state = locate(spec, revision=revision, cache_dir=cache_dir)
            if state.status == "present" and state.path is not None:  # another process was quicker
                return state.path
            files = attempt(f"the list of files of {what}", lambda: _list(source, wanted), may_be_absent=True)
            chosen = _choose(spec, source, files)
            folder.mkdir(exist_ok=True)
            Manifest(source.hub, source.id, wanted, tuple(chosen)).write(folder, PLAN)
            with _Bar(sum(file.size or 0 for file in chosen), spec.name, show_progress) as bar:
                attempt(f"files of {what}", lambda: _FETCH[source.hub](source, wanted, folder, chosen, bar))
            verified = tuple(_verified(spec, source, folder, file) for file in chosen)
            Manifest(source.hub, source.id, wanted, verified).write(folder)
            (folder / PLAN).unlink(missing_ok=True)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{what} cannot be written to {folder}: {error}. Free space, or choose another cache_dir."
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


def _list(source: Source, revision: str | None) -> list[RemoteFile]:
    if source.hub == "modelscope":
        from modelscope_hub import HubApi

        listed = HubApi(endpoint=_endpoint("modelscope")).list_repo_files(source.id, "model", revision=revision)
        return [RemoteFile(file.path, file.size or None, file.sha256 or None) for file in listed if not file.is_dir]
    from huggingface_hub import HfApi

    info = HfApi(endpoint=_endpoint("huggingface")).model_info(source.id, revision=revision, files_metadata=True)
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

    with _without_bars():
        HubApi(endpoint=_endpoint("modelscope")).download_repo(
            source.id,
            "model",
            revision=revision,
            local_dir=folder,
            cache_dir=folder.parents[3],  # of models/OWNER--NAME/snapshots/REVISION: the client keeps its locks there
            file_list=[{"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in files],
            progress_callbacks=[Progress],
        )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the client from drawing a bar for each file, which it has no option for; ours covers the whole snapshot."""
    from tqdm import tqdm

    client: Any = importlib.import_module("modelscope_hub._download")
    with _CLIENT:
        before = client.tqdm
        client.tqdm = partial(tqdm, disable=True)
        try:
            yield
        finally:
            client.tqdm = before


def _fetch_huggingface(
    source: Source, revision: str | None, folder: Path, files: list[RemoteFile], bar: Callable[[int], None]
) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})

    for file in files:
        hf_hub_download(
            source.id,
            file.path,
            revision=revision,
            local_dir=folder,
            endpoint=_endpoint("huggingface"),
            tqdm_class=Silent,
        )
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
