"""Texts to sparse vectors, and dense ones of the same passes, computed by a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_retrieval.base import Both, HybridEncoder
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, ModelInfo, Side, prompted
from zh_retrieval.remote.dialects.own import Own
from zh_retrieval.remote.model import RemoteModel
from zh_retrieval.remote.parts import cut
from zh_retrieval.sparse.vector import SparseVector
from zh_retrieval.validation import check_texts


class RemoteSparseEncoder(RemoteModel, HybridEncoder):
    """The sparse side of a model on a server."""

    def __init__(self, spec: ModelSpec, client: Client, dialect: Own, served: ModelInfo, overflow: Overflow) -> None:
        super().__init__(spec, client, dialect, served, overflow)
        self._own = dialect
        if served.dimension is None:
            raise ConfigError(f"The server does not say how long a vector of {spec.name} is.")
        self._width = served.dimension

    @property
    def dimension(self) -> int:
        return self._width

    @property
    def needs_idf(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        said = str(self.served.sparse)
        return said if self._overflow == "truncate" else results_hash(self.spec, sparse=said, overflow=self._overflow)

    def warmup(self) -> None:
        """Open the connection, and let the server compute one text."""
        self.encode_documents(["暖机"])

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        taken = check_texts(texts)
        return self._run(lambda: self._sparse(taken, "query", show_progress))

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        taken = check_texts(texts)
        return self._run(lambda: self._sparse(taken, "document", show_progress))

    async def aencode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        taken = check_texts(texts)
        return await self._arun(lambda: self._sparse(taken, "query", show_progress))

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        taken = check_texts(texts)
        return await self._arun(lambda: self._sparse(taken, "document", show_progress))

    def encode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        taken = check_texts(texts)
        return self._run(lambda: self._both(taken, "query", show_progress))

    def encode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        taken = check_texts(texts)
        return self._run(lambda: self._both(taken, "document", show_progress))

    async def aencode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        taken = check_texts(texts)
        return await self._arun(lambda: self._both(taken, "query", show_progress))

    async def aencode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        taken = check_texts(texts)
        return await self._arun(lambda: self._both(taken, "document", show_progress))

    async def _sparse(self, texts: tuple[str, ...], side: Side, show_progress: bool) -> list[SparseVector]:
        return await self._asked(texts, side, None, show_progress)

    async def _both(self, texts: tuple[str, ...], side: Side, show_progress: bool) -> Both:
        dense = np.empty((len(texts), self._width), dtype=np.float32)
        return dense, await self._asked(texts, side, dense, show_progress)

    async def _asked(
        self, texts: tuple[str, ...], side: Side, dense: np.ndarray | None, show_progress: bool
    ) -> list[SparseVector]:
        """Return the sparse vectors; `dense` is filled with the others if there is one."""

        async def ask(low: int, high: int) -> Answer:
            rows, vectors, shortened = await self._own.embed_sparse(texts[low:high], side, dense=dense is not None)
            if dense is not None and rows is not None:
                dense[low:high] = rows
            found = np.empty(high - low, dtype=object)
            for place, vector in enumerate(vectors):
                found[place] = vector
            return Answer(found, shortened)

        out = np.empty(len(texts), dtype=object)
        [prompt] = prompted(self.spec, [""], side, None)
        ranges = cut(texts, self.served, lambda text: (text,), prompt)
        vectors: list[SparseVector] = (await self._gathered(ranges, ask, out, "texts", show_progress)).tolist()
        return vectors
