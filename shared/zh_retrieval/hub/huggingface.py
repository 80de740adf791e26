"""Hugging Face: what a repository lists, and its files, through the hub's own client."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from zh_retrieval.hub.retry import FilesFailedError, Request, RetryPolicy, attempt
from zh_retrieval.hub.snapshot import Listing, RemoteFile, size_on_disk

PACKAGE = "huggingface-hub"
_WORKERS = 8
_CLIENT_TRIES = 6  # of a connection that breaks, and of 429


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or the public one."""
    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return url if "://" in url else f"https://{url}"


def list_files(what: str, id: str, revision: str | None, policy: RetryPolicy) -> Listing:
    """Return the files of a repository at a revision (None: the default branch), and the commit that it is."""
    from huggingface_hub import HfApi

    def ask() -> Listing:
        info = HfApi(endpoint=endpoint()).model_info(id, revision=revision, files_metadata=True)
        files = [RemoteFile(file.rfilename, file.size, _sha256(file)) for file in info.siblings or []]
        return Listing(files, info.sha)

    return attempt(Request(f"the list of files of {what}", PACKAGE, may_be_absent=True), ask, policy)


def _sha256(file: Any) -> str | None:
    return file.lfs.sha256 if file.lfs else None


def fetch_files(
    what: str, id: str, revision: str | None, folder: Path, files: list[RemoteFile],
    start: Callable[[], Callable[[int], None]], policy: RetryPolicy,
) -> None:  # fmt: skip
    """Fill a folder with files, eight at a time; what is there in part goes on.

    Args:
        what: What is fetched, and from where, for messages.
        id: The repository.
        revision: The revision; None is the default branch.
        folder: Where the files go.
        files: The files.
        start: Called before each round; returns what takes the bytes that arrive in it.
        policy: How often a round is made.
    """
    request = Request(
        f"files of {what}", PACKAGE, spent=_tried_again, client_tries=_CLIENT_TRIES,
        progress=partial(size_on_disk, folder),
    )  # fmt: skip
    attempt(request, lambda: _round(id, revision, folder, files, start()), policy)


def _tried_again(causes: Sequence[BaseException]) -> bool:
    """Return True if the client has tried again: it does so unless a file's bytes, once it began, met a 5xx."""
    if any(type(cause).__name__ == "LocalEntryNotFoundError" for cause in causes):  # asked in vain what the file is
        return True
    statuses = [getattr(getattr(cause, "response", None), "status_code", 0) for cause in causes]
    return all(status < 500 for status in statuses)


class _StoppedError(Exception):
    """Another file failed, or the caller was interrupted."""


def _round(
    id: str, revision: str | None, folder: Path, files: list[RemoteFile], advance: Callable[[int], None]
) -> None:
    stop = threading.Event()
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="zh-retrieval-download")
    futures = {}
    try:
        futures = {
            pool.submit(_fetch, id, revision, folder, file, _Progress(file, advance, stop)): file for file in files
        }
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:  # after an error or Ctrl-C the others end with their next bytes, and go on from there another time
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    failed: dict[str, BaseException] = {}
    for future, file in futures.items():
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, _StoppedError):
            failed[file.path] = error
    if failed:
        raise FilesFailedError(failed)


class _Progress:
    """The bytes of one file on their way to the bar of the snapshot."""

    def __init__(self, file: RemoteFile, advance: Callable[[int], None], stop: threading.Event) -> None:
        self._advance, self._stop = advance, stop
        self._size, self._seen = file.size, 0

    def update(self, size: float | None) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._seen += int(size or 0)
        self._advance(int(size or 0))

    def end(self) -> None:
        if self._size is not None:  # a file that was here already, or came from the client's cache, had no bar
            self._advance(self._size - self._seen)


def _fetch(id: str, revision: str | None, folder: Path, file: RemoteFile, progress: _Progress) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """Draws nothing: the client's bytes go to our bar."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            progress.update(options.get("initial", 0))

        def update(self, n: float | None = 1) -> bool | None:
            progress.update(n)
            return None

    hf_hub_download(id, file.path, revision=revision, local_dir=folder, endpoint=endpoint(), tqdm_class=Bar)
    progress.end()
