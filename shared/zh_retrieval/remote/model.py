"""What remote encoders and rerankers have in common."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Model
from zh_retrieval.errors import ClosedError, InputError
from zh_retrieval.options import Overflow
from zh_retrieval.progress import Bar
from zh_retrieval.remote import parts
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Dialect, Served
from zh_retrieval.remote.portal import portal

if TYPE_CHECKING:
    import torch

    from zh_retrieval.recipes.spec import ModelSpec

logger = logging.getLogger(__name__)


class RemoteModel(Model):
    """A model on a server.

    Attributes:
        served: What the server said of it when the handle was made.
    """

    def __init__(self, spec: ModelSpec, client: Client, dialect: Dialect, served: Served, overflow: Overflow) -> None:
        self.spec = spec
        self.served = served
        self.max_length = served.max_length or spec.max_length
        self._client = client
        self._dialect = dialect
        self._overflow = overflow
        self._closed = False
        self._let_go = weakref.finalize(self, _close, client)
        self._let_go.atexit = False

    def __repr__(self) -> str:
        """Return the model and where it is; no key."""
        return f"{type(self).__name__}({self.spec.name!r}, base_url={self._client.address.url!r})"

    @property
    def device(self) -> torch.device:
        """Return the CPU: that is where results are; the server's own device is its own affair."""
        import torch

        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Return what the server computes in, float32 if it does not say."""
        import torch

        found = getattr(torch, (self.served.dtype or "float32").removeprefix("torch."), None)
        return found if isinstance(found, torch.dtype) else torch.float32

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

    def _run(self, work: Callable[[], Coroutine[Any, Any, np.ndarray]]) -> np.ndarray:
        self._check_open()
        return portal().run(work())

    async def _arun(self, work: Callable[[], Coroutine[Any, Any, np.ndarray]]) -> np.ndarray:
        self._check_open()
        return await portal().arun(work())

    async def _gathered(
        self,
        ranges: list[tuple[int, int]],
        ask: Callable[[int, int], Awaitable[Answer]],
        out: np.ndarray,
        what: str,
        show_progress: bool,
    ) -> np.ndarray:
        with Bar(show_progress, total=len(out), unit="text") as bar:
            self._report(await parts.gather(ranges, ask, out, bar), len(out), what)
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
