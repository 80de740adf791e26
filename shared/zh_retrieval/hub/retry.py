"""Trying a request again: what passes is tried again, what does not becomes a typed error."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from zh_retrieval.errors import DownloadError

ResultT = TypeVar("ResultT")

_ATTEMPTS = 4
_PAUSE = 0.5  # seconds before the second attempt; doubles
_LONGEST_PAUSE = 30.0
_FORBIDDEN = {401, 403}
_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
_NOT_THERE = {"NotExistError", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"}
_WRONG_BYTES = {"FileIntegrityError", "FileSizeMismatchError"}  # the client has fetched such a file again by itself


class AbsentError(Exception):
    """The hub says that the repository or the revision does not exist."""


def attempt(what: str, action: Callable[[], ResultT], *, may_be_absent: bool = False) -> ResultT:
    """Return what `action` returns, after up to 4 tries with growing pauses, or the pause that the hub asks for.

    Args:
        what: What is fetched, and from where, for messages.
        action: A request; its client's errors are understood by status and by name.
        may_be_absent: True turns 404 into AbsentError, False into DownloadError.

    Raises:
        AbsentError: What is asked for does not exist.
        DownloadError: It did not work; the message says what, why and what to do.
        OSError: The disk is full or must not be written.
    """
    pause = _PAUSE
    for number in range(1, _ATTEMPTS + 1):
        try:
            return action()
        except DownloadError:
            raise
        except Exception as error:
            causes = _causes(error)
            statuses = {_status(cause) for cause in causes}
            for cause in causes:
                if isinstance(cause, OSError) and cause.errno in _DISK:
                    cause.filename = cause.filename or ", ".join(_files(causes)) or None
                    raise cause from error
            names = {type(cause).__name__ for cause in causes}
            absent = 404 in statuses or bool(names & _NOT_THERE)
            if absent and may_be_absent:
                raise AbsentError("it does not exist there") from error
            final = absent or bool(statuses & _FORBIDDEN) or bool(names & _WRONG_BYTES)
            if final or number == _ATTEMPTS:
                tries = "1 try" if number == 1 else f"{number} tries"
                raise DownloadError(
                    f"{what} could not be fetched after {tries}: {_short(causes)}. {_remedy(statuses, names)}"
                ) from error
            time.sleep(min(max(pause, _retry_after(causes)), _LONGEST_PAUSE))
            pause *= 2
    raise AssertionError("unreachable")


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
    values = [getattr(cause, "retry_after", None) for cause in causes]
    return max((float(value) for value in values if isinstance(value, (int, float))), default=0.0)


def _remedy(statuses: set[int | None], names: set[str]) -> str:
    if statuses & _FORBIDDEN:
        return "Log in with a token that may read it."
    if names & _WRONG_BYTES:
        return "The hub does not send what it lists: try again later, or another revision."
    return "Try again: it resumes."


def _files(causes: list[BaseException]) -> list[str]:
    return sorted({file for cause in causes for file in getattr(cause, "failed_files", None) or {}})


def _short(causes: list[BaseException]) -> str:
    """Return the files that failed and the deepest cause in one line, without the queries of signed addresses."""
    files = _files(causes)
    text = str(causes[-1]).strip() or "no detail"
    cause = f"{type(causes[-1]).__name__}: {re.sub(r'[?][^ ]+', '', text.splitlines()[0])[:200]}"
    return f"{', '.join(files)}: {cause}" if files else cause
