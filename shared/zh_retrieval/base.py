"""The seams: what an encoder, a sparse encoder and a reranker are, wherever they compute.

Users, adapters, server and evaluation type against these classes; `local` and `remote` implement them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from zh_retrieval.ranking import Ranked, rank_scores
from zh_retrieval.recipes.fingerprint import results_hash
from zh_retrieval.validation import UnscorableQueryError, check_text, check_texts

if TYPE_CHECKING:
    import numpy as np

    from zh_retrieval.device import Device, DType
    from zh_retrieval.recipes.spec import ModelSpec
    from zh_retrieval.sparse.vector import SparseVector

Both: TypeAlias = "tuple[np.ndarray, list[SparseVector]]"
"""Dense vectors, float32 (N, D), and sparse ones of the same N texts."""
SelfT = TypeVar("SelfT", bound="Model")
Pair = tuple[str, str]
"""(query, document)."""
Span = tuple[int, int]
"""Half-open range of characters of a document."""


class Model(ABC):
    """What encoders and rerankers have in common. Any thread may use one; `close()` gives its weights back.

    Attributes:
        spec: The recipe.
        max_length: Tokens of one sequence, special tokens included.
    """

    spec: ModelSpec
    max_length: int

    @property
    @abstractmethod
    def device(self) -> Device:
        """Return where the model computes."""

    @property
    @abstractmethod
    def dtype(self) -> DType:
        """Return what the model computes in; results are float32 always."""

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal, on every machine, for models that give equal results.

        In it are the content of every file that the model is made of (weights, config, vocabulary, an adapter and its
        base), the recipe, and every option that changes results: dtype, quantization, max_length, overflow, dimensions.
        Not in it: device, threads, names and places of folders. A remote model has that of the server's model if it is
        a `zh-retrieval serve`; of other servers counts what they say: their model's name, and its revision where they
        know one, so equal digits are then only as good as these. A model that does not know its weights (a fake, one of
        your own) counts by its class and its recipe.

        Made for keys of caches and for telling whether old results go with new ones. The first question may read all
        weights (0.25 s for 400 MB, 9 s for 14 GB, or what the disk takes); ask it from a thread in an event loop.

        Raises:
            CheckpointError: The weights' file was written to after it was loaded.
            ClosedError: The model was closed before the first question.
        """
        kind = type(self)
        return results_hash(self.spec, model=f"{kind.__module__}.{kind.__qualname__}", max_length=self.max_length)

    @abstractmethod
    def warmup(self) -> None:
        """Compute made-up input, so that the first real call is not the slow one."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Return True after `close()`, and after `close_all()`."""

    @abstractmethod
    def close(self) -> None:
        """Take no more calls; closing twice does nothing."""

    def __enter__(self: SelfT) -> SelfT:
        """Return the model, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the model."""
        self.close()


class Encoder(Model):
    """An embedding model, from `load_encoder`. Vectors are float32 and have length 1."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Return D, the length of a vector."""

    @abstractmethod
    def encode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return float32 (N, D), row i for texts[i]; (0, D) for no texts.

        An empty text, or one of white space alone, has a vector: that of the prompt around it.

        Args:
            texts: Queries, without any prompt: the recipe adds it.
            instruction: Replaces the model's own instruction; "" leaves it out.
            show_progress: Show a bar.

        Raises:
            InputError: A text is not valid text (the message names its index), or is too long and overflow="error".
            ConfigError: The model takes no instruction.
            ClosedError: The encoder was closed.
        """

    @abstractmethod
    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        """Return float32 (N, D), row i for texts[i]; (0, D) for no texts. Raises as `encode_queries`."""

    @abstractmethod
    async def aencode_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return what `encode_queries` returns; the event loop goes on meanwhile.

        Concurrent calls share forward passes. Cancelling drops the work that has not started.
        """

    @abstractmethod
    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        """Return what `encode_documents` returns; the event loop goes on meanwhile."""

    @abstractmethod
    def encode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        """Return float32 (S, D), row i for the characters spans[i] of the document, seen in the whole document.

        One pass over the document: a vector is the mean of the tokens that share a character with its span, so that
        pronouns and headings elsewhere count (late chunking). A document beyond `max_length` is read in windows that
        overlap by a quarter, and each span in the window that holds it best. A span without a token of its own (white
        space, zero-width characters) gets those before it; a document without any, the vector of the whole.

        Raises:
            ConfigError: The model does not pool by mean.
            InputError: The document is no valid text, or a span does not lie in it.
        """

    @abstractmethod
    async def aencode_chunks(self, document: str, spans: Sequence[Span]) -> np.ndarray:
        """Return what `encode_chunks` returns; the event loop goes on meanwhile."""

    def token_counts(self, documents: Sequence[str]) -> list[int] | None:
        """Return the tokens of each document before any cut, prompt and special tokens included.

        None where they are not known, because the model computes elsewhere. What is above `max_length` is not read.
        """
        return None


class SparseEncoder(Model):
    """A model of sparse vectors, from `load_sparse_encoder`: a score is the inner product over shared indices."""

    @property
    @abstractmethod
    def needs_idf(self) -> bool:
        """Return True if the store multiplies by IDF (Qdrant: `modifier="idf"`), False if the values hold all."""

    @abstractmethod
    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        """Return the vectors of queries in their order; a text without terms has an empty one.

        Raises:
            InputError: A text is not valid text (the message names its index), or is too long and overflow="error".
            ClosedError: The encoder was closed.
        """

    @abstractmethod
    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        """Return the vectors of documents in their order. Raises as `encode_queries`."""

    @abstractmethod
    async def aencode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        """Return what `encode_queries` returns; the event loop goes on meanwhile."""

    @abstractmethod
    async def aencode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[SparseVector]:
        """Return what `encode_documents` returns; the event loop goes on meanwhile."""


class HybridEncoder(SparseEncoder):
    """A sparse encoder whose passes give dense vectors, too: both of a text cost one forward pass."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Return D, the length of a dense vector."""

    @abstractmethod
    def encode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        """Return what `Encoder.encode_queries` and `encode_queries` return: float32 (N, D), and N sparse vectors."""

    @abstractmethod
    def encode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        """Return what `Encoder.encode_documents` and `encode_documents` return."""

    @abstractmethod
    async def aencode_queries_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        """Return what `encode_queries_both` returns; the event loop goes on meanwhile."""

    @abstractmethod
    async def aencode_documents_both(self, texts: Sequence[str], *, show_progress: bool = False) -> Both:
        """Return what `encode_documents_both` returns; the event loop goes on meanwhile."""


class Reranker(Model):
    """A reranking model, from `load_reranker`. Scores are raw: see `spec.score_range`."""

    @abstractmethod
    def score(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return float32 (N,), the raw score of each (query, document); higher is better; (0,) for no pairs.

        A cross-encoder gives its logit, query likelihood the mean log p (natural log) of the query's tokens, a model
        that answers yes or no log p(yes) - log p(no).

        Args:
            pairs: (query, document), without any prompt: the recipe adds it.
            instruction: Replaces the model's own instruction.
            show_progress: Show a bar.

        Raises:
            InputError: A pair is not two valid texts, is too long and overflow="error", or its query is empty, white
                space alone or leaves no room for a document; the message names its index.
            ConfigError: The model takes no instruction.
            ClosedError: The reranker was closed.
        """

    @abstractmethod
    async def ascore(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return what `score` returns; the event loop goes on meanwhile."""

    def token_counts(self, pairs: Sequence[Pair]) -> list[int] | None:
        """Return the tokens of each pair before any cut, prompt and special tokens included; None if not known."""
        return None

    def rank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, instruction: str | None = None
    ) -> list[Ranked]:
        """Return the documents' indices and raw scores, best first, ties in their order; [] for no documents.

        Raises:
            InputError: As `score`.
            ConfigError: `top_n` is not a positive whole number, or the model takes no instruction.
        """
        return rank_scores(self.score(_pairs(query, documents), instruction=instruction).tolist(), top_n)

    async def arank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, instruction: str | None = None
    ) -> list[Ranked]:
        """Return what `rank` returns; the event loop goes on meanwhile."""
        return rank_scores((await self.ascore(_pairs(query, documents), instruction=instruction)).tolist(), top_n)


def _pairs(query: str, documents: Sequence[str]) -> list[Pair]:
    check_text(query, "query")
    taken = check_texts(documents, "documents")
    if taken and not query.strip():
        raise UnscorableQueryError("query is empty, which gives documents no score. Leave the documents as they are.")
    return [(query, document) for document in taken]
