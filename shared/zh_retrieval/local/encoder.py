"""Texts to vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from zh_retrieval.base import Encoder
from zh_retrieval.errors import ConfigError
from zh_retrieval.local.call import Call, Size
from zh_retrieval.local.inputs import Truncation, distinct, frozen
from zh_retrieval.local.late_chunking import Chunking
from zh_retrieval.local.session import Session, check_instruction
from zh_retrieval.local.threads import tokenizers
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.rules import ARCHITECTURES
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.beginnings import reach
from zh_retrieval.tokenization.late_chunks import Span
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.unknown import UnknownTexts
from zh_retrieval.validation import check_texts


class LocalEncoder(Session, Encoder):
    """An embedding model in this process."""

    @property
    def dimension(self) -> int:
        return self._width

    def encode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = self._queries(frozen(texts), instruction)
        self._run(call, show_progress)
        return call.vectors()

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        call = self._documents(frozen(texts))
        self._run(call, show_progress)
        return call.vectors()

    async def aencode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = await self._amake(self._queries, texts, instruction)
        await self._arun(call, show_progress)
        return call.vectors()

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        call = await self._amake(self._documents, texts)
        await self._arun(call, show_progress)
        return call.vectors()

    def encode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        call = self._chunks(document, frozen(spans))
        self._run(call, show_progress=False)
        return call.vectors()

    async def aencode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        spans = frozen(spans)
        pool = tokenizers(len(document) if isinstance(document, str) else 0)
        call = await asyncio.get_running_loop().run_in_executor(pool, self._chunks, document, spans)
        await self._arun(call, show_progress=False)
        return call.vectors()

    def token_counts(self, documents: Sequence[str]) -> list[int]:
        tokenizer = self._model.tokenizer
        ids = tokenizer.ids([self.spec.format_document(text) for text in check_texts(documents)])
        return [len(part) + tokenizer.frame_length for part in ids]

    def _chunks(self, document: str, spans: Sequence[Span]) -> Chunking:
        if self.spec.pooling != "mean":
            raise ConfigError(f"{self.spec.name} pools by {self.spec.pooling!r}: late chunking needs mean pooling.")
        template, tokenizer = self.spec.document_template, self._model.tokenizer
        return Chunking(document, spans, tokenizer, template, self.max_length, self.dimension)

    def _queries(self, texts: Sequence[str], instruction: str | None) -> Encoding:
        check_instruction(self.spec, instruction)
        return self._encoding(texts, lambda text: self.spec.format_query(text, instruction))

    def _documents(self, texts: Sequence[str]) -> Encoding:
        return self._encoding(texts, self.spec.format_document)

    def _encoding(self, texts: Sequence[str], template: Callable[[str], str]) -> Encoding:
        check_texts(texts)
        tokenizer = self._model.tokenizer
        shares = ARCHITECTURES[self.spec.architecture].causal  # tokens see only what comes before them
        before = tokenizer.ids([template("")])[0][:-1] if shares else []  # the last token may join the text's first
        return Encoding(texts, template, tokenizer, self.max_length, self.dimension, self._overflow, before)


class Encoding(Call):
    """Texts that become a vector each."""

    def __init__(
        self,
        texts: Sequence[str],
        template: Callable[[str], str],
        tokenizer: TextTokenizer,
        max_length: int,
        dimension: int,
        overflow: Overflow,
        before: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.count = len(texts)
        self._before = before  # ids that texts begin with
        self._texts = texts
        self._template = template
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncation = Truncation(overflow, max_length, "texts", self.used)
        around = template("")
        self._around, self._reach = len(around), reach(max_length)
        self._unknown = UnknownTexts(tokenizer, "texts", around)
        self._places: dict[int, list[int]] = {}
        self._vectors = np.empty((len(texts), dimension), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        unique, places = distinct(self._texts[low:high])
        found = self._tokenizer.beginnings([self._template(text) for text in unique], self._max_length)
        for index, place in enumerate(places, low):
            ids, whole = found[place]
            length = len(ids) + self._tokenizer.frame_length
            if length > self._max_length or not whole:
                self._truncation.note(index, length, whole)
            self.used.tokens += min(length, self._max_length)
        self._unknown.note([ids for ids, _ in found], places)
        self._places[low] = places
        return [self._sequence(ids) for ids, _ in found]

    def _sequence(self, ids: Sequence[int]) -> Tokens:
        framed = self._tokenizer.frame(ids, self._max_length)
        shared = len(self._tokenizer.prefix) + len(self._before)
        if self._before and len(framed) > shared and [*ids[: len(self._before)]] == [*self._before]:
            return Tokens(framed, shared=shared, instructed=True)
        return Tokens(framed)

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        self._vectors[low:high] = rows[self._places.pop(low)]

    def size(self, index: int) -> Size:
        characters = len(self._texts[index]) + self._around
        tokens = min(len(self._texts[index]) + self._tokenizer.frame_length, self._max_length)
        return Size(tokens, characters, min(characters, self._reach))

    def vectors(self) -> np.ndarray:
        """Return float32 (N, D), after a warning if anything was cut."""
        self._truncation.report(self.count)
        self._unknown.report(self.count)
        return self._vectors
