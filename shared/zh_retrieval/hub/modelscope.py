"""ModelScope: what a repository lists, and its files, through the hub's own client.

The client draws a bar for each file and has no option for silence. `_without_bars` is the one place that reaches into
it; where that fails, more bars are drawn and nothing else happens.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from zh_retrieval import process
from zh_retrieval.errors import DownloadError
from zh_retrieval.hub.retry import Request, RetryPolicy, attempt
from zh_retrieval.hub.snapshot import Listing, RemoteFile, size_on_disk

PACKAGE = "modelscope-hub"
_LOGGER = logging.getLogger(__name__)


def endpoint() -> str:
    """Return the address of the hub: MODELSCOPE_ENDPOINT, MODELSCOPE_DOMAIN, or the public one."""
    url = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "https://modelscope.cn"
    return url if "://" in url else f"https://{url}"


def list_files(what: str, id: str, revision: str | None, policy: RetryPolicy) -> Listing:
    """Return the files of a repository at a revision (None: the default branch)."""
    api = _api(what)

    def ask() -> Listing:
        listed = api.list_repo_files(id, "model", revision=revision)
        files = [RemoteFile(file.path, file.size or None, file.sha256 or None) for file in listed if not file.is_dir]
        return Listing(files)

    tries = _client_setting("REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    request = Request(
        f"the list of files of {what}", PACKAGE, may_be_absent=True, spent=_tried_again, client_tries=tries
    )
    return attempt(request, ask, policy)


def fetch_files(
    what: str, id: str, revision: str | None, folder: Path, files: list[RemoteFile],
    start: Callable[[], Callable[[int], None]], policy: RetryPolicy,
) -> None:  # fmt: skip
    """Fill a folder with files, four at a time; what is there in part goes on.

    Args:
        what: What is fetched, and from where, for messages.
        id: The repository.
        revision: The revision; None is the default branch.
        folder: Where the files go: models/OWNER--NAME/snapshots/REVISION of a cache.
        files: The files.
        start: Called before each round; returns what takes the bytes that arrive in it.
        policy: How often a round is made.
    """
    from modelscope_hub import ProgressCallback

    api = _api(what)

    def fetch() -> None:
        advance = start()

        class Progress(ProgressCallback):
            def update(self, size: int) -> None:
                advance(size)

        with _without_bars():
            api.download_repo(
                id,
                "model",
                revision=revision,
                local_dir=folder,
                cache_dir=folder.parents[3],  # the client keeps its locks there
                file_list=[{"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in files],
                progress_callbacks=[Progress],
            )

    tries = _client_setting("DOWNLOAD_RETRY_TIMES", 0) + 1
    request = Request(
        f"files of {what}", PACKAGE, spent=_tried_again, client_tries=tries, progress=partial(size_on_disk, folder)
    )
    attempt(request, fetch, policy)


def _api(what: str) -> Any:
    try:
        Path.home()
    except RuntimeError as error:  # the client looks for its settings there as it is imported
        raise DownloadError(
            f"{what} could not be fetched: ModelScope's client needs a home folder, and this user has none. "
            "Set HOME to a folder that can be written."
        ) from error
    from modelscope_hub import HubApi

    for handler in logging.getLogger("modelscope_hub").handlers:  # the client's own: it writes to standard error
        handler.handleError = _unheard  # type: ignore[assignment,method-assign]
    return HubApi(endpoint=endpoint())


def _unheard(_: logging.LogRecord) -> None:
    """Let a message of the client go unheard where standard error is gone: logging would raise, and end a download."""


def _tried_again(causes: Sequence[BaseException]) -> bool:
    """Return True if the client has tried again: it does so with what it calls retryable."""
    return any(getattr(cause, "retryable", False) for cause in causes)


def _client_setting(name: str, default: int) -> int:
    from modelscope_hub import constants

    value = getattr(constants, name, default)
    return value if isinstance(value, int) else default


_BARS = process.held_over_fork(threading.Lock())
_downloads = 0  # running ones that keep the client's bars away
_bar: Any = None  # what the first of them found, and the last puts back


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the client from drawing a bar for each file; ours covers the whole snapshot."""
    global _downloads, _bar  # noqa: PLW0603
    from modelscope_hub import TqdmCallback
    from tqdm import tqdm

    client = sys.modules[TqdmCallback.__module__]  # the module that draws: its name is not public, the class is
    with _BARS:
        if _downloads == 0:
            _bar = getattr(client, "tqdm", None)
            if _bar is None:
                _LOGGER.debug("%s has no tqdm to silence: its own bars are drawn", client.__name__)
            else:
                client.tqdm = partial(tqdm, disable=True)  # type: ignore[attr-defined]
        _downloads += 1
    try:
        yield
    finally:
        with _BARS:
            _downloads -= 1
            if _downloads == 0 and _bar is not None:
                client.tqdm = _bar  # type: ignore[attr-defined]
