"""Texts to vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from zh_retrieval.base import Encoder
from zh_retrieval.errors import ConfigError
from zh_retrieval.local.late_chunking import ChunkWork
from zh_retrieval.local.session import Session, Truncation, Work, check_instruction, distinct
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.late_chunks import Span
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.unknown import UnknownTexts
from zh_retrieval.validation import check_texts


class LocalEncoder(Session, Encoder):
    """An embedding model in this process."""

    @property
    def dimension(self) -> int:
        return self._model.engine.width

    def encode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        work = self._queries(texts, instruction)
        self._run(work, self._priority(work), show_progress)
        return work.vectors()

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        work = self._documents(texts)
        self._run(work, "bulk", show_progress)
        return work.vectors()

    async def aencode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        work = await self._aprepare(texts, self._queries, instruction)
        await self._arun(work, self._priority(work), show_progress)
        return work.vectors()

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        work = await self._aprepare(texts, self._documents)
        await self._arun(work, "bulk", show_progress)
        return work.vectors()

    def encode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        work = self._chunks(document, spans)
        self._run(work, "bulk", show_progress=False)
        return work.vectors()

    async def aencode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        work = await asyncio.to_thread(self._chunks, document, spans)
        await self._arun(work, "bulk", show_progress=False)
        return work.vectors()

    def _chunks(self, document: str, spans: Sequence[Span]) -> ChunkWork:
        if self.spec.pooling != "mean":
            raise ConfigError(f"{self.spec.name} pools by {self.spec.pooling!r}: late chunking needs mean pooling.")
        template, tokenizer = self.spec.document_template, self._model.tokenizer
        return ChunkWork(document, spans, tokenizer, template, self.max_length, self.dimension)

    def _queries(self, texts: Sequence[str], instruction: str | None) -> _Encoding:
        check_instruction(self.spec, instruction)
        return self._work(texts, lambda text: self.spec.format_query(text, instruction))

    def _documents(self, texts: Sequence[str]) -> _Encoding:
        return self._work(texts, self.spec.format_document)

    def _work(self, texts: Sequence[str], template: Callable[[str], str]) -> _Encoding:
        texts = tuple(texts) if isinstance(texts, Sequence) and not isinstance(texts, (str, bytes)) else texts
        check_texts(texts)
        truncation = Truncation(self._overflow, self.max_length, "texts")
        return _Encoding(texts, template, self._model.tokenizer, self.max_length, self.dimension, truncation)


class _Encoding(Work):
    def __init__(
        self,
        texts: Sequence[str],
        template: Callable[[str], str],
        tokenizer: TextTokenizer,
        max_length: int,
        dimension: int,
        truncation: Truncation,
    ) -> None:
        self.count = len(texts)
        self._texts = texts
        self._template = template
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncation = truncation
        self._unknown = UnknownTexts(tokenizer, "texts", template(""))
        self._places: dict[int, list[int]] = {}
        self._vectors = np.empty((len(texts), dimension), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        unique, places = distinct(self._texts[low:high])
        ids = self._tokenizer.ids([self._template(text) for text in unique])
        for index, place in enumerate(places, low):
            length = len(ids[place]) + self._tokenizer.frame_length
            if length > self._max_length:
                self._truncation.note(index, length)
        self._unknown.note(ids, places)
        self._places[low] = places
        return [Tokens(self._tokenizer.frame(part, self._max_length)) for part in ids]

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        self._vectors[low:high] = rows[self._places.pop(low)]

    def characters(self) -> int:
        return sum(map(len, self._texts))

    def vectors(self) -> np.ndarray:
        self._truncation.report(self.count)
        self._unknown.report(self.count)
        return self._vectors
