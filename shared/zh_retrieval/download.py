"""One download: a source's listing, chosen and checked, its files brought to a folder, the manifest last.

The folder holds the plan of the download from before the first file until after the manifest, so whoever finds it
knows what is missing.
"""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_retrieval.cache import locate, target
from zh_retrieval.errors import DownloadError
from zh_retrieval.remote import AbsentError, Listing, PassingError, RefusedError, RemoteHub, remote_hub
from zh_retrieval.snapshot import (
    MANIFEST,
    PLAN,
    Manifest,
    RemoteFile,
    is_safe,
    leaving,
    missing_files,
    select,
    size_on_disk,
)
from zh_retrieval.specs import ModelSpec, Source
from zh_retrieval.transfer import Pace, Transfer, WrongBytesError

_FILES_AT_ONCE = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Download:
    """A snapshot to fetch from one source.

    Attributes:
        spec: The model.
        source: Where it comes from.
        revision: What the caller asked for; None is the source's tested revision, else the hub's main branch.
        cache_dir: Root of the snapshots; None is the user's ModelScope cache.
        show_progress: Draw one bar over all bytes.
        pace: How failures are retried.
    """

    spec: ModelSpec
    source: Source
    revision: str | None = None
    cache_dir: str | Path | None = None
    show_progress: bool = False
    pace: Pace = Pace()  # noqa: RUF009 - frozen

    def run(self) -> Path:
        """Return the folder of the whole snapshot; of several processes one downloads and the others wait for it.

        Raises:
            AbsentError: The hub says that the repository or the revision does not exist; nothing was written.
            DownloadError: Anything else that keeps the snapshot from being whole.
        """
        folder = target(self.source, self.revision, self.cache_dir)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                self._lock(stack, folder)
                state = locate(self.spec, revision=self.revision, cache_dir=self.cache_dir)
                if state.status == "present" and state.path is not None:  # another process was quicker
                    return state.path
                hub = remote_hub(self.source.hub)
                listing = self._list(hub)
                self._fill(folder, hub, listing.revision, self._choose(listing, folder))
        except DownloadError:
            raise
        except OSError as error:
            raise DownloadError(
                f"{self.spec.name} cannot be written to {folder}: {error}. Free space, or choose another cache_dir."
            ) from error
        return folder

    def _lock(self, stack: ExitStack, folder: Path) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(f"{folder}.lock")
        try:
            stack.enter_context(lock.acquire(timeout=1))
        except Timeout:
            _log.info("Waiting for another process that downloads %s to %s", self.spec.name, folder)
            stack.enter_context(lock.acquire())

    def _list(self, hub: RemoteHub) -> Listing:
        revision = self.revision or self.source.revision or hub.default_revision
        failures = 0
        while True:
            try:
                return hub.list_files(self.source.id, revision)
            except RefusedError as error:
                raise self._failed("the list of files", error, hub) from error
            except PassingError as error:
                failures = self.pace.attempts if hub.lists_with_retries else failures + 1
                try:
                    self.pace.wait(failures, error, threading.Event())
                except PassingError:
                    raise self._failed("the list of files", error, hub) from error

    def _choose(self, listing: Listing, folder: Path) -> tuple[RemoteFile, ...]:
        unsafe = [file.path for file in listing.files if not is_safe(file.path)]
        if unsafe:
            raise DownloadError(
                f"{self._place} lists {unsafe[0]!r}, a path outside the snapshot. Nothing was written: do not use this "
                "source."
            )
        chosen = select(listing.files)
        if not chosen:
            raise DownloadError(
                f"{self._place} lists {len(listing.files)} files, but not a config, a vocabulary and weights in "
                "safetensors or PyTorch form. Choose another revision, or give path=."
            )
        if away := leaving(folder, [file.path for file in chosen]):
            raise DownloadError(f"{folder / away[0]} is behind a link that leads out of {folder}. Remove that link.")
        return tuple(chosen)

    def _fill(self, folder: Path, hub: RemoteHub, revision: str, files: tuple[RemoteFile, ...]) -> None:
        total = sum(file.size or 0 for file in files)
        self._check_space(total, folder)
        folder.mkdir(exist_ok=True)
        Manifest(self.source.hub, self.source.id, revision, files).write(folder, PLAN)
        (folder / MANIFEST).unlink(missing_ok=True)
        with _Bar(total, self.spec.name, self.show_progress) as bar:
            verified = self._transfer(Transfer(hub, self.source.id, revision, folder, self.pace, bar.advance), files)
        if missing := missing_files(folder):
            raise DownloadError(f"{self._place} does not list {', '.join(missing)}, which the model needs. Give path=.")
        Manifest(self.source.hub, self.source.id, revision, verified).write(folder)
        (folder / PLAN).unlink(missing_ok=True)

    def _check_space(self, total: int, folder: Path) -> None:
        needed = total - (size_on_disk(folder) if folder.is_dir() else 0)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise DownloadError(
                f"{self.spec.name} needs {needed / 1e9:.1f} GB more below {folder}, {free / 1e9:.1f} GB are free. Free "
                "space, or choose another cache_dir."
            )

    def _transfer(self, transfer: Transfer, files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
        def one(file: RemoteFile) -> RemoteFile:
            try:
                return transfer.run(file)
            except (AbsentError, RefusedError, PassingError, WrongBytesError) as error:
                raise self._failed(file.path, error, transfer.hub) from error

        with ThreadPoolExecutor(_FILES_AT_ONCE, "zh-retrieval-download") as pool:
            futures = [pool.submit(one, file) for file in files]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                transfer.stop.set()  # the others keep what they have
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return tuple(future.result() for future in futures)

    @property
    def _place(self) -> str:
        return f"{self.source.hub} {self.source.id} ({self.spec.name})"

    def _failed(self, what: str, error: Exception, hub: RemoteHub) -> DownloadError:
        remedy = "Try again: what is on disk is kept."
        if isinstance(error, RefusedError) and error.status in (401, 403):
            remedy = f"Log in: put a token that may read it into {hub.token_variable}."
        elif isinstance(error, PassingError) and error.wait > self.pace.longest:
            remedy = f"The hub asks to wait {error.wait:.0f} seconds: try again then; what is on disk is kept."
        elif isinstance(error, WrongBytesError):
            remedy = "The wrong bytes were removed. Try again later, or give path= with a copy from elsewhere."
        return DownloadError(
            f"{self.spec.name}: {what} of {self.source.hub} {self.source.id} failed: {error}. {remedy}"
        )


class _Bar:
    """One bar over the bytes of a snapshot, or none; told about bytes from several threads."""

    def __init__(self, total: int, name: str, show: bool) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        if show:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit="B", unit_scale=True)

    def __enter__(self) -> _Bar:
        return self

    def advance(self, size: int) -> None:
        if self._bar is not None and size:
            with self._lock:
                self._bar.update(size)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
