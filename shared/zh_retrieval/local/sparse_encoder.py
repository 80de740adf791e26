"""Texts to sparse vectors: a weight for each token id, read from the pass that gives the dense vector, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from zh_retrieval.base import Both, HybridEncoder
from zh_retrieval.checkpoint.sparse_head import lacks
from zh_retrieval.errors import CheckpointError
from zh_retrieval.local.encoder import Encoding
from zh_retrieval.local.inputs import frozen
from zh_retrieval.local.session import Session
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.sequence import Tokens, row_places, weight_rows
from zh_retrieval.sparse.vector import SparseVector
from zh_retrieval.validation import check_texts

_NO_WORDS = ("<s>", "<pad>", "</s>", "<unk>", "[CLS]", "[PAD]", "[SEP]", "[UNK]")
"""Whose weights are dropped, as FlagEmbedding `inference/embedder/encoder_only/m3.py` does."""


class LocalSparseEncoder(Session, HybridEncoder):
    """A model in this process that gives sparse vectors, and dense ones of the same pass."""

    def __init__(self, *arguments: Any) -> None:
        """Take what `Session` takes.

        Raises:
            CheckpointError: The folder has no weights of a sparse side.
        """
        super().__init__(*arguments)
        missing = lacks(self.spec, self._model.folder)
        if missing is not None:
            self.close()
            raise CheckpointError(
                f"{self.folder} has no {missing}, which gives {self.spec.name} its sparse vectors. Take it from what "
                "its authors publish."
            )

    @property
    def dimension(self) -> int:
        return self._width

    @property
    def needs_idf(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        return results_hash(self.spec, dense=super().fingerprint, sparse=self._model.sparse_digest())

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return self._encoded(self._queries, texts, show_progress).sparse()

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return self._encoded(self._documents, texts, show_progress).sparse()

    async def aencode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return (await self._aencoded(self._queries, texts, show_progress)).sparse()

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return (await self._aencoded(self._documents, texts, show_progress)).sparse()

    def encode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        return self._encoded(self._queries, texts, show_progress).both()

    def encode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        return self._encoded(self._documents, texts, show_progress).both()

    async def aencode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        return (await self._aencoded(self._queries, texts, show_progress)).both()

    async def aencode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        return (await self._aencoded(self._documents, texts, show_progress)).both()

    def _encoded(
        self, make: Callable[[Sequence[str]], _SparseEncoding], texts: Sequence[str], show_progress: bool
    ) -> _SparseEncoding:
        call = make(frozen(texts))
        self._run(call, show_progress)
        return call

    async def _aencoded(
        self, make: Callable[[Sequence[str]], _SparseEncoding], texts: Sequence[str], show_progress: bool
    ) -> _SparseEncoding:
        call = await self._amake(make, texts)
        await self._arun(call, show_progress)
        return call

    def _queries(self, texts: Sequence[str]) -> _SparseEncoding:
        return self._encoding(texts, self.spec.format_query)

    def _documents(self, texts: Sequence[str]) -> _SparseEncoding:
        return self._encoding(texts, self.spec.format_document)

    def _encoding(self, texts: Sequence[str], template: Callable[[str], str]) -> _SparseEncoding:
        check_texts(texts)
        tokenizer = self._model.tokenizer
        return _SparseEncoding(
            self._dropped, texts, template, tokenizer, self.max_length, self.dimension, self._overflow
        )

    @cached_property
    def _dropped(self) -> np.ndarray:
        """Return the token ids that are no words."""
        found = map(self._model.tokenizer.tokenizer.token_to_id, _NO_WORDS)
        return np.array([id for id in found if id is not None], dtype=np.int64)


class _SparseEncoding(Encoding):
    """Texts whose passes give the weights of their tokens, too."""

    def __init__(self, dropped: np.ndarray, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._dropped = dropped
        self._sequences: dict[int, list[Tokens]] = {}
        self._sparse: list[SparseVector] = []

    def prepare(self, low: int, high: int) -> list[Tokens]:
        width = self._vectors.shape[1]
        tokens = [replace(item, weight_rows=weight_rows(len(item.ids), width)) for item in super().prepare(low, high)]
        self._sequences[low] = tokens
        return tokens

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        tokens, places = self._sequences.pop(low), self._places[low]
        vectors, weights = row_places(tokens, rows.shape[1])
        numbers = rows.reshape(-1)
        sparse = [
            self._vector(item.ids, numbers[part.start : part.stop]) for item, part in zip(tokens, weights, strict=True)
        ]
        self._sparse += [sparse[place] for place in places]
        super().finish(low, high, rows[vectors])

    def _vector(self, ids: Sequence[int], weights: np.ndarray) -> SparseVector:
        """Return the largest weight of each token id; what is no word, or has the weight 0, is left out."""
        given = np.asarray(ids)
        order = np.lexsort((-weights, given))
        found, first = np.unique(given[order], return_index=True)
        largest = weights[order][first]
        kept = (largest > 0) & ~np.isin(found, self._dropped)
        return SparseVector(found[kept].astype(np.uint32), largest[kept].astype(np.float32))

    def sparse(self) -> list[SparseVector]:
        """Return the sparse vectors, in the order of the texts."""
        self.vectors()  # reports what was cut
        return self._sparse

    def both(self) -> Both:
        """Return dense and sparse vectors."""
        return self.vectors(), self._sparse
