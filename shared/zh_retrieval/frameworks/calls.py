"""What the framework adapters of one task share: its settings, and its calls as frameworks want them.

Needs pydantic, which both frameworks bring. Imports no torch: that comes with the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from zh_retrieval import checks
from zh_retrieval.base import Encoder, Pair, Reranker, Span
from zh_retrieval.frameworks.conversion import as_lists
from zh_retrieval.frameworks.fields import LoadFields
from zh_retrieval.ranking import (
    Normalize,
    check_family,
    check_normalize,
    normalize_scores,
    select_ranked,
)
from zh_retrieval.recipes.spec import Scoring, Task
from zh_retrieval.validation import UnscorableQueryError

logger = logging.getLogger(__name__)

Kept = tuple[int, float | None]
"""A document's index in the input, and its score; None if the query has none."""


class EncoderFields(LoadFields):
    """The settings of an embedding model, and its calls as frameworks want them: lists of Python floats."""

    query_instruction: str | None = Field(
        default=None, description='Replaces the model\'s own query instruction; "" leaves it out.'
    )

    _task: ClassVar[Task] = "embedding"

    def check_settings(self) -> None:
        """Raise what `LoadFields.check_settings` raises, and ConfigError for an instruction the model cannot take."""
        super().check_settings()
        self.spec.format_query("", self.query_instruction)

    @property
    def dimension(self) -> int:
        """Return the length of a vector; loads the model."""
        encoder: Encoder = self._load()
        return encoder.dimension

    def _query(self, text: str) -> list[float]:
        encoder: Encoder = self._load()
        vector: list[float] = encoder.encode_queries([text], instruction=self.query_instruction)[0].tolist()
        return vector

    async def _aquery(self, text: str) -> list[float]:
        encoder: Encoder = await self._aload()
        vector: list[float] = (await encoder.aencode_queries([text], instruction=self.query_instruction))[0].tolist()
        return vector

    def _documents(self, texts: Sequence[str]) -> list[list[float]]:
        encoder: Encoder = self._load()
        vectors: list[list[float]] = encoder.encode_documents(texts, show_progress=self.show_progress).tolist()
        return vectors

    async def _adocuments(self, texts: Sequence[str]) -> list[list[float]]:
        encoder: Encoder = await self._aload()
        return await as_lists(await encoder.aencode_documents(texts, show_progress=self.show_progress))

    def _chunks(self, document: str, spans: Sequence[Span]) -> list[list[float]]:
        encoder: Encoder = self._load()
        vectors: list[list[float]] = encoder.encode_chunks(document, spans).tolist()
        return vectors


class RerankerFields(LoadFields):
    """The settings of a reranking model, and its calls as frameworks want them: Python floats, normalized."""

    top_n: int | None = Field(default=None, gt=0, description="How many to keep; None keeps all.")
    depth: int | None = Field(
        default=None,
        gt=0,
        description="How many of the given documents are read, from the first on; the others follow those in their "
        "order, without a new score. None reads all.",
    )
    score_threshold: float | None = Field(
        default=None,
        description="What has a lower score, after `normalize`, is dropped, and so is what `depth` leaves unread.",
    )
    on_error: Literal["keep", "raise"] = Field(
        default="keep",
        description='For a query that has no scores, as it is empty or leaves no room for a document: "keep" the first '
        '`top_n` in their order, without a score and with a warning, or "raise" InputError.',
    )

    instruction: str | None = Field(
        default=None, description="Replaces the model's own instruction, of models that take one."
    )

    _task: ClassVar[Task] = "reranking"
    _scoring: ClassVar[Scoring | None] = None  # the only one of a class that is named after a family

    def check_settings(self) -> None:
        """Raise what `LoadFields.check_settings` raises, and ConfigError for a model or a setting of another family."""
        super().check_settings()
        check_family(type(self).__name__, self._scoring, self.spec)
        check_normalize(self._normalize(), self.spec)
        self.spec.format_query("", self.instruction)

    @field_validator("top_n", "depth", mode="before")
    @classmethod
    def _any_integer(cls, value: Any, info: ValidationInfo) -> Any:
        return value if value is None or isinstance(value, str) else checks.whole_number(str(info.field_name), value)

    def _scores(self, pairs: Sequence[Pair]) -> list[float]:
        reranker: Reranker = self._load()
        scores = reranker.score(pairs, instruction=self.instruction, show_progress=self.show_progress)
        return normalize_scores(scores, self._normalize())

    async def _ascores(self, pairs: Sequence[Pair]) -> list[float]:
        reranker: Reranker = await self._aload()
        scores = await reranker.ascore(pairs, instruction=self.instruction, show_progress=self.show_progress)
        return normalize_scores(scores, self._normalize())

    def _normalize(self) -> Normalize:
        normalize: Normalize = vars(self)["normalize"]  # a field of each class, which says what fits its scores
        return normalize

    def _ranked(self, query: str, documents: Sequence[str]) -> list[Kept]:
        """Return what to keep of the documents, best first, ties in their order."""
        try:
            scores = self._scores([(query, document) for document in documents[: self.depth]])
        except UnscorableQueryError as error:
            return self._unranked(error, len(documents))
        return self._best(scores, len(documents))

    async def _aranked(self, query: str, documents: Sequence[str]) -> list[Kept]:
        try:
            scores = await self._ascores([(query, document) for document in documents[: self.depth]])
        except UnscorableQueryError as error:
            return self._unranked(error, len(documents))
        return self._best(scores, len(documents))

    def _best(self, scores: Sequence[float], count: int) -> list[Kept]:
        """Return what to keep of `count` documents, of which the first have scores."""
        best = select_ranked(scores, self.top_n, self.score_threshold)
        unread = range(len(scores), count) if self.score_threshold is None else ()
        kept: list[Kept] = [(entry.index, entry.score) for entry in best]
        return [*kept, *((index, None) for index in unread)][: self.top_n]

    def _unranked(self, error: UnscorableQueryError, count: int) -> list[Kept]:
        if self.on_error == "raise":
            raise error
        kept = count if self.top_n is None else min(count, self.top_n)
        logger.warning("%s on_error='keep': %d of %d come back in their order, without scores.", error, kept, count)
        return [(index, None) for index in range(kept)]
