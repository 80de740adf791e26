"""What remote encoders and rerankers have in common."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zh_retrieval.base import Model
from zh_retrieval.device import Device, DType
from zh_retrieval.errors import ClosedError, InputError
from zh_retrieval.options import Overflow
from zh_retrieval.progress import Bar
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.remote import parts
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Dialect, ModelInfo
from zh_retrieval.remote.portal import portal

if TYPE_CHECKING:
    from zh_retrieval.recipes.spec import ModelSpec

ResultT = TypeVar("ResultT")
logger = logging.getLogger(__name__)

_DECIDE = ("fingerprint", "id", "weights", "dtype", "quantization", "max_length", "dimension")
"""What a server may say that decides about results."""


class RemoteModel(Model):
    """A model on a server.

    Attributes:
        served: What the server said of it when the handle was made.
    """

    def __init__(
        self, spec: ModelSpec, client: Client, dialect: Dialect, served: ModelInfo, overflow: Overflow
    ) -> None:
        self.spec = spec
        self.served = served
        self.max_length = served.max_length or spec.max_length
        self._client = client
        self._dialect = dialect
        self._overflow = overflow
        self._closed = False
        self._let_go = weakref.finalize(self, _close, client)
        self._let_go.atexit = False

    @property
    def fingerprint(self) -> str:
        served, ours = self.served, {"overflow": self._overflow, **self._own_options()}
        if served.fingerprint and ours == {"overflow": "truncate"}:
            return served.fingerprint
        said = {name: getattr(served, name) for name in _DECIDE if getattr(served, name) is not None}
        return results_hash(self.spec, **said, **ours)

    def _own_options(self) -> dict[str, Any]:
        """Return what the handle does to results beside what the server did."""
        return {}

    def __repr__(self) -> str:
        """Return the model and where it is; no key."""
        return f"{type(self).__name__}({self.spec.name!r}, base_url={self._client.address.url!r})"

    @property
    def device(self) -> Device:
        """Return the CPU: that is where results are; the server's own device is its own affair."""
        return Device("cpu")

    @property
    def dtype(self) -> DType:
        """Return what the server says that it computes in, float32 if it does not say."""
        return DType((self.served.dtype or "float32").removeprefix("torch."))

    @property
    def closed(self) -> bool:
        """Return True after `close()`."""
        return self._closed

    def close(self) -> None:
        """Close the connections; the server keeps its model."""
        self._closed = True
        self._let_go()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("The remote model was closed. Load it again.")

    def _run(self, work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        self._check_open()
        return portal().run(work())

    async def _arun(self, work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        self._check_open()
        return await portal().arun(work())

    async def _gathered(
        self,
        ranges: list[tuple[int, int]],
        ask: parts.Ask,
        out: np.ndarray,
        what: str,
        show_progress: bool,
    ) -> np.ndarray:
        with Bar(show_progress, total=len(out), unit="text") as bar:
            self._report(await parts.gather(ranges, ask, out, what, bar), len(out), what)
        return out

    def _report(self, cut: int, count: int, what: str) -> None:
        """Say once for a call how many inputs the server cut; where that is an error, raise it."""
        if not cut:
            return
        said = f"{cut} of {count} {what} were cut to {self.max_length} tokens by {self._client.address.url}."
        if self._overflow == "error":
            raise InputError(f"{said} Split them, or use overflow='truncate'.")
        logger.warning("%s Split them, or use overflow='error'.", said)


def _close(client: Client) -> None:
    portal().start(client.close())
