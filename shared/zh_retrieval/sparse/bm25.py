"""BM25 as sparse vectors, for stores that know IDF: a document's values need no pass over the corpus."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from zh_retrieval import usage
from zh_retrieval.aside import aside
from zh_retrieval.base import SparseEncoder
from zh_retrieval.device import Device, DType
from zh_retrieval.errors import ClosedError
from zh_retrieval.progress import Bar
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sparse.settings import BM25Settings
from zh_retrieval.sparse.terms import terms
from zh_retrieval.sparse.vector import SparseVector
from zh_retrieval.validation import check_text, check_texts

_INLINE = 4096  # characters that are counted on an event loop: quicker than a thread
_PIECE = 64  # texts that are counted beside an event loop in one go: others' work comes between
_LARGEST = 2**32 - 1  # indices are below it: Milvus refuses it

Counts = Callable[[str], tuple[SparseVector, int]]
"""A text to its vector, and how many terms it has."""


@lru_cache(maxsize=2**17)
def index_of(term: str) -> int:
    """Return a term's index, the same everywhere: the CRC-32 (zlib) of its UTF-8, modulo 2**32 - 1.

    Two terms of one index count as one. None do of the 132 470 terms of CMRC 2018, nor of 1 898 040 pairs of its
    characters; a random hash (BLAKE2, Murmur) would join 2 and 419 of them. CRC-32 keeps short texts that differ in
    few bits apart, is in every language's library, and takes a quarter of the time.
    """
    return zlib.crc32(term.encode()) % _LARGEST


def average_length(texts: Iterable[str]) -> float:
    """Return how many terms a text of a corpus has on the average: `average_length=` of `bm25-zh`.

    Raises:
        InputError: A text is not valid text; the message names its place.
    """
    count = total = 0
    for place, text in enumerate(texts):
        check_text(text, f"texts[{place}]")
        total += len(terms(text))
        count += 1
    return max(total, 1) / max(count, 1)


class BM25Encoder(SparseEncoder):
    """Counts the terms of texts. Document: f (k1 + 1) / (f + k1 (1 - b + b length / average length)); query: 1."""

    def __init__(self, spec: ModelSpec, settings: BM25Settings) -> None:
        self.spec = spec
        self.max_length = spec.max_length
        self.settings = settings
        self._closed = False

    @property
    def needs_idf(self) -> bool:
        return True

    @property
    def device(self) -> Device:
        return Device("cpu")

    @property
    def dtype(self) -> DType:
        return DType("float32")

    @property
    def fingerprint(self) -> str:
        k1, b, average = self.settings.k1, self.settings.b, self.settings.average_length
        return results_hash(self.spec, k1=k1, b=b, average_length=average)

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return self._all(self._taken(texts), self._query, show_progress)

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return self._all(self._taken(texts), self._document, show_progress)

    async def aencode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return await self._acounted(texts, self._query, show_progress)

    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        return await self._acounted(texts, self._document, show_progress)

    def warmup(self) -> None:
        self._taken(())
        terms("热")  # compiles the patterns

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        """Return the model and its settings."""
        return f"{type(self).__name__}({self.spec.name!r}, {self.settings!r})"

    def _taken(self, texts: Sequence[str]) -> tuple[str, ...]:
        if self._closed:
            raise ClosedError(f"This {type(self).__name__} was closed. Load {self.spec.name} again.")
        return check_texts(texts)

    async def _acounted(self, texts: Sequence[str], counts: Counts, show_progress: bool) -> list[SparseVector]:
        taken = self._taken(texts)
        if sum(map(len, taken)) <= _INLINE:
            return self._all(taken, counts, show_progress)
        vectors: list[SparseVector] = []
        with Bar(show_progress, total=len(taken), unit="text") as bar:
            for low in range(0, len(taken), _PIECE):
                vectors += await aside(self._counted, taken[low : low + _PIECE], counts, bar)
        return vectors

    def _all(self, texts: tuple[str, ...], counts: Counts, show_progress: bool) -> list[SparseVector]:
        with Bar(show_progress, total=len(texts), unit="text") as bar:
            return self._counted(texts, counts, bar)

    def _counted(self, texts: tuple[str, ...], counts: Counts, bar: Bar) -> list[SparseVector]:
        used, vectors = usage.Usage(), []
        for text in texts:
            vector, length = counts(text)
            used.tokens += length
            vectors.append(vector)
            bar.advance(1)
        usage.note(used)
        return vectors

    def _query(self, text: str) -> tuple[SparseVector, int]:
        found = terms(text)
        return SparseVector.of(dict.fromkeys(map(index_of, found), 1.0)), len(found)

    def _document(self, text: str) -> tuple[SparseVector, int]:
        found = terms(text)
        norm = self.settings.k1 * (1 - self.settings.b + self.settings.b * len(found) / self.settings.average_length)
        more = self.settings.k1 + 1
        counts = Counter(map(index_of, found))  # what shares an index counts as one term
        return SparseVector.of({index: f * more / (f + norm) for index, f in counts.items()}), len(found)
