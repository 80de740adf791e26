"""The hubs as a download sees them: what a repository lists, and the bytes of one file from an offset on.

ModelScope is spoken to through `modelscope_hub`: its listing, and its plain stream of one file. Its own repository
download is not used: it always draws bars, takes locks outside the chosen cache, hashes everything on every call and
gives a file an hour at most. Every failure leaves here as one of three errors, with a text that is safe to show.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from zh_retrieval.errors import ConfigError
from zh_retrieval.snapshot import RemoteFile

if TYPE_CHECKING:
    import requests

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
_PASSING = (408, 409, 425, 429)  # and every 5xx
_HASH = re.compile(r"[0-9a-f]{64}")
_IDENTITY = {"Accept-Encoding": "identity"}  # sizes and offsets count the bytes of the file itself


class AbsentError(Exception):
    """The hub says that the repository, the revision or the file does not exist."""


class RefusedError(Exception):
    """The hub will not answer differently if asked again; `status` is its HTTP status, None without one."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class PassingError(Exception):
    """The hub or the network failed in a way that may pass; `wait` is what the hub asks for, in seconds."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository, and the revision that names exactly these where the hub tells it."""

    files: tuple[RemoteFile, ...]
    revision: str


class RemoteHub(Protocol):
    """A place that holds repositories.

    Attributes:
        default_revision: The branch that is meant when no revision is given.
        token_variable: The environment variable that holds the user's token.
        lists_with_retries: Whether `list_files` has already tried again when it fails.
    """

    default_revision: str
    token_variable: str
    lists_with_retries: bool

    def list_files(self, repository: str, revision: str) -> Listing:
        """Return what a repository holds; raises AbsentError, RefusedError or PassingError."""
        ...

    def open(self, repository: str, revision: str, path: str, offset: int) -> requests.Response:
        """Return the unread answer that holds a file from byte `offset` on; raises as `list_files` does."""
        ...


class ModelScope:
    """modelscope.cn, or what MODELSCOPE_ENDPOINT names."""

    default_revision = "master"
    token_variable = "MODELSCOPE_API_TOKEN"
    lists_with_retries = True

    def __init__(self) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig

        self._api = HubApi(HubConfig(endpoint=endpoint("modelscope")))  # a config of its own: none is shared or cached

    def list_files(self, repository: str, revision: str) -> Listing:
        import requests
        from modelscope_hub.errors import HubError

        try:
            listed = self._api.list_repo_files(repository, "model", revision=revision)
        except HubError as error:
            raise _translated(error, getattr(error, "status_code", None), getattr(error, "retry_after", None)) from None
        except (
            requests.RequestException,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:  # not JSON, or not a listing
            raise PassingError(f"no listing in the answer ({_short(error)})") from None
        return Listing(tuple(_entry(f.path, f.size or None, f.sha256) for f in listed if not f.is_dir), revision)

    def open(self, repository: str, revision: str, path: str, offset: int) -> requests.Response:
        import requests
        from modelscope_hub.errors import HubError

        try:
            answer: requests.Response = self._api.legacy.download_stream(
                repository, "model", path, revision, headers=_IDENTITY | _range(offset)
            )
        except HubError as error:
            raise _translated(error, getattr(error, "status_code", None), getattr(error, "retry_after", None)) from None
        except requests.RequestException as error:
            raise PassingError(_short(error)) from None
        return answer


class HuggingFace:
    """huggingface.co, or what HF_ENDPOINT names; token and address come from `huggingface_hub`."""

    default_revision = "main"
    token_variable = "HF_TOKEN"
    lists_with_retries = False

    def __init__(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        self._forbidden = constants.HF_HUB_OFFLINE
        self._headers = build_hf_headers(library_name="zh-retrieval") | _IDENTITY

    def list_files(self, repository: str, revision: str) -> Listing:
        url = f"{endpoint('huggingface')}/api/models/{quote(repository)}/revision/{quote(revision, safe='')}"
        try:
            content = self._get(f"{url}?blobs=true", {}, stream=False).json()
            files = tuple(
                _entry(file["rfilename"], file.get("size"), (file.get("lfs") or {}).get("sha256"))
                for file in content["siblings"]
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PassingError(f"no listing in the answer ({_short(error)})") from None
        return Listing(files, content.get("sha") or revision)

    def open(self, repository: str, revision: str, path: str, offset: int) -> requests.Response:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(repository, path, revision=revision, endpoint=endpoint("huggingface"))
        return self._get(url, _range(offset), stream=True)

    def _get(self, url: str, headers: dict[str, str], *, stream: bool) -> requests.Response:
        import requests

        if self._forbidden:
            raise RefusedError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")
        try:
            answer = requests.get(url, headers=self._headers | headers, timeout=_TIMEOUT, stream=stream)
        except requests.RequestException as error:
            raise PassingError(_short(error)) from None
        if answer.status_code < 400:
            return answer
        answer.close()
        cause = answer.headers.get("X-Error-Code", "")
        status = (
            404 if cause in ("RepoNotFound", "RevisionNotFound") else answer.status_code
        )  # 401 hides what is not there
        wait = answer.headers.get("Retry-After", "")
        text = answer.headers.get("X-Error-Message") or answer.reason or ""
        raise _translated(text, status, float(wait) if wait.isdigit() else None)


def remote_hub(name: str) -> RemoteHub:
    """Return the hub that a source names; imports its client."""
    return ModelScope() if name == "modelscope" else HuggingFace()


def endpoint(name: str) -> str:
    """Return the address of a hub, without a slash at its end."""
    if name == "modelscope":
        url = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "https://modelscope.cn"
    elif name == "huggingface":
        url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    else:
        raise ConfigError(f"hub={name!r} is unknown. Use 'modelscope' or 'huggingface'.")
    return (url if "://" in url else f"https://{url}").rstrip("/")


def shown(text: str) -> str:
    """Return the first line of a text, without what may hold a secret: query strings, user info, tokens."""
    line = next(iter(text.splitlines()), "")
    line = re.sub(r"\?\S+", "?…", re.sub(r"//[^/@\s]+@", "//", line))
    for variable in (ModelScope.token_variable, HuggingFace.token_variable):
        if secret := os.environ.get(variable):
            line = line.replace(secret, "…")
    return line[:300]


def _translated(error: Any, status: int | None, wait: float | None) -> Exception:
    text = f"HTTP {status}: {shown(str(error))}" if status else _short(error)
    if status == 404:
        return AbsentError(text)
    if status is None or status >= 500 or status in _PASSING:
        return PassingError(text, wait or 0.0)
    return RefusedError(text, status)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(str(error)) or 'no detail'}"


def _range(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def _entry(path: str, size: int | None, sha256: str | None) -> RemoteFile:
    digest = (sha256 or "").lower()
    known = size if isinstance(size, int) and size >= 0 else None
    return RemoteFile(str(path), known, digest if _HASH.fullmatch(digest) else None)
