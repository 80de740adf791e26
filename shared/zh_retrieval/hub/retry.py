"""Trying a request again: what can pass is tried again, what cannot becomes a typed error at once.

Each client tries some requests again by itself. What a client has tried is not tried here once more, unless bytes
arrived meanwhile: a bad line then goes on from where it was cut. Everything else is tried here, by one policy.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from zh_retrieval.errors import DownloadError

ResultT = TypeVar("ResultT")

_FORBIDDEN = {401, 403}
_SHOWN = 200  # characters of a client's message
_PASSING = {408, 416, 425, 429}  # and every status from 500; after 416 a file begins anew
_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
_NOT_THERE = {"NotExistError", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"}
_WRONG_BYTES = {"FileIntegrityError", "FileSizeMismatchError"}  # the client has fetched such a file again by itself
_BROKEN_LINE = {  # of the standard library, requests, urllib3, httpx and the clients; their subclasses too
    "ConnectionError", "TimeoutError", "Timeout", "ProtocolError", "ChunkedEncodingError", "IncompleteRead",
    "TransportError", "NetworkError",
}  # fmt: skip


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is made.

    Attributes:
        tries: The most tries of one request.
        pause: Seconds before the second try; doubles from then on. A hub's Retry-After makes it longer.
        longest: The longest pause in seconds, whatever the hub asks for.
        sleep: What passes the time between two tries; takes seconds.
    """

    tries: int = 4
    pause: float = 0.5
    longest: float = 30.0
    sleep: Callable[[float], None] = _sleep


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a hub, and what its client does by itself.

    Attributes:
        what: What is fetched, and from where, for messages.
        package: The client's distribution, named with its version when it fails in a way that nobody foresaw.
        may_be_absent: True turns 404 into AbsentError, False into DownloadError.
        spent: Says of the causes of a failure whether the client has tried again already.
        client_tries: How often the client tries what it tries again.
        progress: Bytes that have arrived; asked before and after a try.
    """

    what: str
    package: str
    may_be_absent: bool = False
    spent: Callable[[Sequence[BaseException]], bool] = lambda causes: False
    client_tries: int = 1
    progress: Callable[[], int] = lambda: 0


class AbsentError(Exception):
    """The hub says that the repository or the revision does not exist."""


class FilesFailedError(Exception):
    """Files of a snapshot that could not be fetched: path -> error."""

    def __init__(self, failed_files: dict[str, BaseException]) -> None:
        super().__init__(f"{len(failed_files)} files failed")
        self.failed_files = failed_files


def attempt(request: Request, action: Callable[[], ResultT], policy: RetryPolicy) -> ResultT:
    """Return what `action` returns, tried again with growing pauses while what is wrong can pass.

    Raises:
        AbsentError: What is asked for does not exist.
        DownloadError: It did not work; the message says what, why and what to do.
        OSError: The disk is full or must not be written.
    """
    pause = policy.pause
    for number in range(1, policy.tries + 1):
        before = request.progress()
        try:
            return action()
        except DownloadError:
            raise
        except Exception as error:
            causes = _causes(error)
            _raise_what_stays(request, error, causes, number)
            spent = request.spent(causes)
            if number == policy.tries or (spent and request.progress() <= before):
                tries = number * (request.client_tries if spent else 1)
                raise _failure(request, causes, tries, "Try again: it resumes.") from error
            policy.sleep(min(max(pause, _retry_after(causes)), policy.longest))
            pause *= 2
    raise AssertionError("unreachable")


def _raise_what_stays(request: Request, error: Exception, causes: list[BaseException], number: int) -> None:
    """Raise for a failure that another try cannot mend; return for one that can pass."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            cause.filename = cause.filename or ", ".join(_files(causes)) or None
            raise cause from error
    statuses = {_status(cause) for cause in causes}
    names = {type(cause).__name__ for cause in causes}
    if 404 in statuses or names & _NOT_THERE:
        if request.may_be_absent:
            raise AbsentError("it does not exist there") from error
        raise _failure(request, causes, number, "Check the revision, or try again later.") from error
    if statuses & _FORBIDDEN:
        raise _failure(request, causes, number, "Log in with a token that may read it.") from error
    if names & _WRONG_BYTES:
        remedy = "The hub does not send what it lists: try again later, or another revision."
        raise _failure(request, causes, number, remedy) from error
    if not any(_passes(cause) for cause in causes):
        from importlib.metadata import version

        remedy = "Check what the hub answers, or install another version of its client."
        raise _failure(request, causes, number, remedy, f" ({request.package} {version(request.package)})") from error


def _passes(cause: BaseException) -> bool:
    status = _status(cause)
    if status is not None:
        return status in _PASSING or status >= 500
    names = {kind.__name__ for kind in type(cause).__mro__}
    return bool(names & _BROKEN_LINE) and "OfflineModeIsEnabled" not in names  # the client's own switch


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error, the errors it was raised from, and those that it collected."""
    found: list[BaseException] = [error]
    for cause in found:
        collected = getattr(cause, "failed_files", None) or {}
        for other in (*collected.values(), cause.__cause__):
            if isinstance(other, BaseException) and other not in found:
                found.append(other)
    return found


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        value = getattr(holder, "status_code", None)
        if isinstance(value, int):
            return value
    return None


def _retry_after(causes: list[BaseException]) -> float:
    """Return the longest pause in seconds that a hub asked for; a date or nonsense counts as none."""
    longest = 0.0
    for cause in causes:
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        for value in (getattr(cause, "retry_after", None), headers.get("Retry-After")):
            try:
                longest = max(longest, float(value))  # type: ignore[arg-type]
            except (TypeError, ValueError):
                continue
    return longest


def _failure(request: Request, causes: list[BaseException], tries: int, remedy: str, client: str = "") -> DownloadError:
    counted = f"{tries} {'try' if tries == 1 else 'tries'}"
    return DownloadError(f"{request.what} could not be fetched after {counted}: {_short(causes)}{client}. {remedy}")


def _files(causes: list[BaseException]) -> list[str]:
    return sorted({file for cause in causes for file in getattr(cause, "failed_files", None) or {}})


def _short(causes: list[BaseException]) -> str:
    """Return the files that failed and the deepest cause in one line, without the queries of signed addresses."""
    files = _files(causes)
    text = str(causes[-1]).strip() or "no detail"
    cause = f"{type(causes[-1]).__name__}: {_line(re.sub(r'[?][^ ]+', '', text.splitlines()[0]))}"
    return f"{', '.join(files)}: {cause}" if files else cause


def _line(text: str) -> str:
    """Return a text of at most 200 characters, cut between words."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN].rpartition(' ')[0] or text[:_SHOWN]} …"
