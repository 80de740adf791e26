"""Hugging Face: what a repository lists, and its files, through the hub's own client."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zh_retrieval.hub.retry import FilesFailedError, Request, RetryPolicy, attempt
from zh_retrieval.hub.snapshot import Listing, RemoteFile, size_on_disk

PACKAGE = "huggingface-hub"
_WORKERS = 8
_FAREWELL = 2.0  # seconds that running files have to end after Ctrl-C
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
    """Fetch every file once; the first that fails stops the others, which go on from there another time."""
    stop = threading.Event()
    waiting = deque(files)
    failed: dict[str, BaseException] = {}

    def work() -> None:
        while not stop.is_set():
            try:
                file = waiting.popleft()
            except IndexError:
                return
            try:
                _fetch(id, revision, folder, file, _Progress(file.size, advance, stop))
            except _StoppedError:
                return
            except BaseException as error:
                failed[file.path] = error
                stop.set()

    # Daemons: a thread that waits for a silent hub, or in the client's own core, must not hold up the exit.
    threads = [
        threading.Thread(target=work, name=f"zh-retrieval-download-{number}", daemon=True)
        for number in range(min(_WORKERS, len(files)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C
        stop.set()
        deadline = time.monotonic() + _FAREWELL
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    if failed:
        raise FilesFailedError(failed)


class _Progress:
    """The bytes of one file on their way to the bar of the snapshot, each once.

    The client may draw two bars for a file (what came over the network, and what of it is on disk) and begin one anew:
    what counts is the most that any of them has seen.
    """

    def __init__(self, size: int | None, advance: Callable[[int], None], stop: threading.Event) -> None:
        self._size, self._advance, self._stop = size, advance, stop
        self._seen = 0

    def reach(self, position: float) -> None:
        """Take that a bar stands at `position`; raises where the file is no longer wanted."""
        if self._stop.is_set():
            raise _StoppedError
        reached = int(position) if self._size is None else min(int(position), self._size)
        if reached > self._seen:
            self._advance(reached - self._seen)
            self._seen = reached


def _fetch(id: str, revision: str | None, folder: Path, file: RemoteFile, progress: _Progress) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """Draws nothing: the client's bytes go to our bar."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            self.position = float(options.get("initial") or 0)
            progress.reach(self.position)

        def update(self, n: float | None = 1) -> bool | None:
            self.position += n or 0
            progress.reach(self.position)
            return None

    hf_hub_download(id, file.path, revision=revision, local_dir=folder, endpoint=endpoint(), tqdm_class=Bar)
    progress.reach(file.size or 0)  # a file that was here already had no bar
