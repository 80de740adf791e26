"""Encoders and rerankers that need no weights, for tests of code that takes a `zh_retrieval.Encoder` or `Reranker`.

Results are made from characters alone: the same on every machine, and texts that share characters are alike. Inputs are
checked as the real ones check them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zh_retrieval.base import Encoder, Model, Pair, Reranker, Span
from zh_retrieval.device import Device, DType
from zh_retrieval.errors import ClosedError, InputError
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.validation import check_pairs, check_text, check_texts


class _Fake(Model):
    """What both fakes have in common.

    Attributes:
        calls: The texts or pairs of every call, in order.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.max_length = spec.max_length
        self.calls: list[tuple[object, ...]] = []
        self._closed = False

    @property
    def device(self) -> Device:
        """Return the CPU."""
        return Device("cpu")

    @property
    def dtype(self) -> DType:
        """Return float32."""
        return DType("float32")

    def warmup(self) -> None:
        """Do nothing."""
        self._note(())

    @property
    def closed(self) -> bool:
        """Return True after `close()`."""
        return self._closed

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True

    def _note(self, inputs: tuple[object, ...]) -> None:
        if self._closed:
            raise ClosedError(f"This {type(self).__name__} was closed. Make another.")
        if inputs:
            self.calls.append(inputs)


class FakeEncoder(_Fake, Encoder):
    """An encoder whose vectors count characters, hashed to `dimension` places and normalized.

    Prompts are left out, so a query that equals a document has its vector.
    """

    def __init__(self, dimension: int = 64, model: str | ModelSpec = DEFAULT_ENCODER) -> None:
        """Take the recipe of `model`, with `dimension` numbers in a vector."""
        super().__init__(replace(get_spec(model), dimension=dimension))
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Return D, the length of a vector."""
        return self._dimension

    def encode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return float32 (N, D), row i for texts[i]."""
        self.spec.format_query("", instruction)
        return self._vectors(texts)

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        """Return float32 (N, D), row i for texts[i]."""
        return self._vectors(texts)

    async def aencode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return what `encode_queries` returns."""
        return self.encode_queries(texts, instruction=instruction)

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        """Return what `encode_documents` returns."""
        return self.encode_documents(texts)

    def encode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        """Return float32 (S, D), row i for the characters spans[i]; unlike a real one, of the span alone."""
        check_text(document, "document")
        for index, (low, high) in enumerate(spans):
            if not 0 <= low < high <= len(document):
                raise InputError(f"spans[{index}] is {(low, high)}, expected a part of {len(document)} characters.")
        return self._vectors([document[low:high] for low, high in spans])

    async def aencode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        """Return what `encode_chunks` returns."""
        return self.encode_chunks(document, spans)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        texts = check_texts(texts)
        self._note(tuple(texts))
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            for character, count in Counter(text or " ").items():
                vectors[index, zlib.crc32(character.encode()) % self._dimension] += count
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class FakeReranker(_Fake, Reranker):
    """A reranker whose score is the share of the query's characters that the document has, 0 to 1."""

    def __init__(self, model: str | ModelSpec = DEFAULT_CROSS_ENCODER) -> None:
        """Take the recipe of `model`."""
        super().__init__(get_spec(model))

    def score(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return float32 (N,), the score of each (query, document)."""
        self.spec.format_query("", instruction)
        check_pairs(pairs)
        queries = check_texts([query for query, _ in pairs], "queries")
        documents = check_texts([document for _, document in pairs], "documents")
        self._note(tuple(zip(queries, documents, strict=True)))
        scores = [
            sum(character in document for character in query) / max(1, len(query))
            for query, document in zip(queries, documents, strict=True)
        ]
        return np.array(scores, dtype=np.float32)

    async def ascore(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return what `score` returns."""
        return self.score(pairs, instruction=instruction)
