"""One file from a hub to disk: resumed after interruptions, checked against the listing, renamed only when right."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.remote import AbsentError, PassingError, RefusedError, RemoteHub, shown
from zh_retrieval.snapshot import RemoteFile, sha256

if TYPE_CHECKING:
    import requests

PARTIAL = ".incomplete"
"""Ending of a file that is being downloaded; what it holds is a prefix of the file."""

_BLOCK = 1 << 20
_SLOWEST = 1024  # bytes a second; less than this over a window counts as a stall
_WINDOW = 60.0  # seconds
_WRONG_LIMIT = 2  # a hub that sends wrong bytes twice in a row will do so again


class WrongBytesError(Exception):
    """The hub sends something else than it lists."""


class StoppedError(Exception):
    """Another file of the snapshot failed for good, so this one was left as it is."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how fast a failed request is repeated.

    Attributes:
        attempts: Requests in a row that bring nothing new before giving up.
        pause: Seconds before the second one; doubles each time.
        longest: The longest pause in seconds; a hub that asks for more is not waited for.
    """

    attempts: int = 5
    pause: float = 1.0
    longest: float = 120.0

    def wait(self, failures: int, error: PassingError, stop: threading.Event) -> None:
        """Sleep before the next request; raises `error` again if there should be none."""
        if failures >= self.attempts or error.wait > self.longest:
            raise error
        stop.wait(max(error.wait, min(self.pause * 2 ** (failures - 1), self.longest)))


@dataclass(slots=True)
class Transfer:
    """One download: where from, where to, and who is told about bytes.

    Attributes:
        hub: The hub.
        repository: The id there.
        revision: The revision there.
        folder: The snapshot folder; files go to their listed paths below it.
        pace: How failures are retried.
        advance: Called with the bytes that came in; negative where they had to be thrown away.
        stop: Set to end all transfers that share it.
    """

    hub: RemoteHub
    repository: str
    revision: str
    folder: Path
    pace: Pace
    advance: Callable[[int], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, file: RemoteFile) -> RemoteFile:
        """Return the file with its true size and sha256, after it is whole and right under its final name.

        Raises:
            AbsentError: The hub lists it and does not have it.
            RefusedError: The hub will not give it.
            PassingError: It could not be fetched in as many attempts as the pace allows.
            WrongBytesError: Size or hash stay different from the listing.
            StoppedError: `stop` was set.
            OSError: It cannot be written.
        """
        target = self.folder / file.path
        if (whole := _checked(target, file)) is not None:
            self.advance(whole.size or 0)
            return whole
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + PARTIAL)
        if partial.is_symlink() or file.sha256 is None:  # without a hash nothing tells an old partial file from a new one
            partial.unlink(missing_ok=True)
        self.advance(_size(partial))
        digest = self._until_right(file, partial)
        size = _size(partial)
        partial.replace(target)
        return RemoteFile(file.path, size, digest)

    def _until_right(self, file: RemoteFile, partial: Path) -> str:
        best, failures, wrong = _size(partial), 0, 0
        while True:
            try:
                return self._attempt(file, partial)
            except PassingError as error:
                reached = _size(partial)
                failures = 1 if reached > best else failures + 1
                best = max(best, reached)
                self.pace.wait(failures, error, self.stop)
            except WrongBytesError:
                self._discard(partial)
                wrong += 1
                if wrong >= _WRONG_LIMIT:
                    raise

    def _attempt(self, file: RemoteFile, partial: Path) -> str:
        """Return the sha256 of the whole partial file, after fetching what it lacks."""
        if file.size is None or _size(partial) != file.size:
            self._append(file, partial)
        digest = sha256(partial)
        if file.size is not None and _size(partial) != file.size:
            raise WrongBytesError(f"{_size(partial)} bytes came, {file.size} are listed")
        if file.sha256 is not None and digest != file.sha256:
            raise WrongBytesError(f"its sha256 is {digest}, {file.sha256} is listed")
        return digest

    def _append(self, file: RemoteFile, partial: Path) -> None:
        if file.size is not None and _size(partial) > file.size:
            self._discard(partial)
        answer = self._answer(file, partial)
        with answer:
            offset = _offset(answer)
            if offset != _size(partial):  # the hub ignores ranges, or answers with another one
                self._discard(partial)
                if offset:
                    raise PassingError(f"the answer starts at byte {offset}, which was not asked for")
            announced = _announced(answer, offset)
            if None not in (announced, file.size) and announced != file.size:
                raise WrongBytesError(f"the hub sends {announced} bytes, {file.size} are listed")
            self._write(answer, partial, file.size)
        if announced is not None and _size(partial) < announced:
            raise PassingError(f"the connection ended at byte {_size(partial)} of {announced}")

    def _answer(self, file: RemoteFile, partial: Path) -> requests.Response:
        try:
            return self.hub.open(self.repository, self.revision, file.path, _size(partial))
        except RefusedError as error:
            if error.status != 416 or not _size(partial):
                raise
            self._discard(partial)
            raise PassingError("there is nothing after what is on disk; starting over") from None
        except AbsentError as error:
            raise AbsentError(f"it is listed, but cannot be fetched ({error})") from None

    def _write(self, answer: requests.Response, partial: Path, limit: int | None) -> None:
        with partial.open("ab") as stream:
            for block in _blocks(answer):
                if self.stop.is_set():
                    raise StoppedError
                if limit is not None and stream.tell() + len(block) > limit:
                    raise WrongBytesError(f"more than the {limit} bytes listed came")
                stream.write(block)
                self.advance(len(block))
            stream.flush()
            os.fsync(stream.fileno())

    def _discard(self, partial: Path) -> None:
        self.advance(-_size(partial))
        partial.unlink(missing_ok=True)


def _checked(target: Path, file: RemoteFile) -> RemoteFile | None:
    """Return the file as it lies under its final name; None if it is not there or not what is listed."""
    if target.is_symlink() or not target.is_file() or file.size not in (None, _size(target)):
        return None
    digest = sha256(target)
    return RemoteFile(file.path, _size(target), digest) if file.sha256 in (None, digest) else None


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Yield what arrives, as it arrives; raises PassingError where the connection breaks or crawls."""
    from urllib3.exceptions import HTTPError

    raw: Any = answer.raw
    read = getattr(raw, "read1", raw.read)  # read() waits for a full block, so a crawling connection would go unseen
    start, received = time.monotonic(), 0
    while True:
        try:
            block: bytes = read(_BLOCK, decode_content=True)
        except (HTTPError, OSError) as error:
            raise PassingError(f"the connection broke ({type(error).__name__}: {shown(str(error))})") from None
        if not block:
            return
        received += len(block)
        yield block
        if (passed := time.monotonic() - start) > _WINDOW:
            if received < _SLOWEST * passed:
                raise PassingError(f"only {received} bytes came in {passed:.0f} seconds")
            start, received = time.monotonic(), 0


def _offset(answer: requests.Response) -> int:
    """Return the byte of the file that an answer starts at."""
    if answer.status_code != 206:
        return 0
    start = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else -1


def _announced(answer: requests.Response, offset: int) -> int | None:
    """Return the size of the whole file by the answer's headers; None if they do not tell."""
    length = answer.headers.get("Content-Length", "")
    encoded = answer.headers.get("Content-Encoding", "identity") not in ("", "identity")
    return offset + int(length) if length.isdigit() and not encoded else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
