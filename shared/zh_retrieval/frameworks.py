"""What the framework adapters share: settings as pydantic fields, weights that load on first use, the calls themselves.

Needs pydantic, which both frameworks bring. Imports no torch: that comes with the weights.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator
from typing_extensions import Self

from zh_retrieval import checks
from zh_retrieval.base import Encoder, Model, Pair, Reranker, Span
from zh_retrieval.conversion import as_lists
from zh_retrieval.lazy import Lazy
from zh_retrieval.options import OPTIONS, Dtype, LoadKwargs, LoadOptions, Overflow, Quantization, WhenFull
from zh_retrieval.ranking import (
    Normalize,
    check_family,
    check_normalize,
    normalize_scores,
    select_ranked,
)
from zh_retrieval.recipes.registry import adopt, check_task, get_spec, registered
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec, Scoring, Task
from zh_retrieval.validation import UnscorableQueryError

logger = logging.getLogger(__name__)

Kept = tuple[int, float | None]
"""A document's index in the input, and its score; None if the query has none."""


def _option(name: str) -> Any:
    """Return the field of an option; what changes no result is left out of dumps, so that caches keyed by one hold."""
    option = OPTIONS[name]
    return Field(default=option.default, exclude=None if option.changes_results else True, description=option.help)


class LoadFields(BaseModel):
    """The options of `zh_retrieval.options.LoadOptions` as fields, and what both tasks do with them.

    A field that is set goes through the same checks as an argument, and is left as it was if they refuse it. One that
    says how to load takes effect at the next call; calls that run keep their weights to the end. Adapters of one class
    have one hash, so that equal ones have equal hashes and a changed one is still found.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True, validate_assignment=True)

    model_name: str = Field(alias="model", description="Name, alias or hub id of the model.")
    path: str | Path | None = _option("path")
    device: str = _option("device")
    dtype: Dtype = _option("dtype")
    quantization: Quantization | None = _option("quantization")
    max_length: int | None = _option("max_length")
    revision: str | None = _option("revision")
    cache_dir: str | Path | None = _option("cache_dir")
    local_files_only: bool = _option("local_files_only")
    overflow: Overflow = _option("overflow")
    max_batch_tokens: int | None = _option("max_batch_tokens")
    max_queue_tokens: int | None = _option("max_queue_tokens")
    when_full: WhenFull = _option("when_full")
    private: bool = _option("private")
    device_map: Any = _option("device_map")
    quantization_config: Any = _option("quantization_config")
    compile: bool = _option("compile")
    dimensions: int | None = _option("dimensions")
    show_progress: bool = Field(default=False, exclude=True, description="Show a bar for downloads and long calls.")

    _task: ClassVar[Task]
    _lazy: Lazy[Any] = PrivateAttr(default_factory=Lazy)

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        """Take the model by position, or as `model` or `model_name`; check everything, load nothing yet.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model does the other task.
            ConfigError: An option does not fit the model.
            pydantic.ValidationError: An argument is unknown or has the wrong type.
        """
        super().__init__(**({"model": model} if model is not None else {}), **fields)
        self.check_settings()

    @field_validator(*OPTIONS, mode="before")
    @classmethod
    def _as_kept(cls, value: Any, info: ValidationInfo) -> Any:
        """Give numbers of any integer type and paths of any kind their one form, before pydantic judges types."""
        check = OPTIONS[str(info.field_name)].check
        kept = check in checks.NUMBERS and value is not None and not isinstance(value, str)
        return check(str(info.field_name), value) if kept or isinstance(value, os.PathLike) else value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field after all checks; one that says how to load takes effect at the next call."""
        if name not in type(self).model_fields:
            super().__setattr__(name, value)
            return
        trial = self.model_copy()
        super(LoadFields, trial).__setattr__(name, value)
        trial.check_settings()
        before = getattr(self, name)
        super().__setattr__(name, value)
        if (name in OPTIONS or name == "model_name") and getattr(self, name) != before:
            self._lazy.drop()

    def __hash__(self) -> int:
        return hash(type(self))

    def __copy__(self) -> Self:
        """Return a copy that loads by its own options: `model_copy(update=...)` may change them."""
        copied = super().__copy__()
        copied._lazy = Lazy()
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        """Return the settings, and a recipe that was registered: another process does not know its name."""
        return {**super().__getstate__(), "recipe": registered(self.model_name)}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Know again what was set: LlamaIndex makes the object anew, as if every field had been given."""
        state = dict(state)
        if (recipe := state.pop("recipe", None)) is not None:
            adopt(recipe)
        super().__setstate__(state)
        object.__setattr__(self, "__pydantic_fields_set__", set(state["__pydantic_fields_set__"]))

    @property
    def spec(self) -> ModelSpec:
        """Return the recipe of the model."""
        return get_spec(self.model_name)

    def load_options(self) -> LoadKwargs:
        """Return the keyword arguments of `load_encoder` or `load_reranker`: what was set or is not the default.

        What was never set is left out, so that the environment can say it.
        """
        values = {name: getattr(self, name) for name in OPTIONS}
        said = {name: value for name, value in values.items() if name in self.model_fields_set}
        return cast("LoadKwargs", said | {name: v for name, v in values.items() if v != OPTIONS[name].default})

    def check_settings(self) -> None:
        """Raise UnknownModelError, WrongTaskError or ConfigError now rather than at the first call."""
        check_task(self.spec, self._task)
        LoadOptions(**self.load_options()).check(self._task)
        check_dimensions(self.spec, self.dimensions, None)

    def identity(self) -> dict[str, Any]:
        """Return everything that changes a result of this model, as `zh_retrieval.identity.identity`."""
        from zh_retrieval.identity import identity

        return identity(self.spec, LoadOptions.given(**self.load_options()))

    def warmup(self) -> None:
        """Load the weights and compute once, so that the first user does not wait for either."""
        self._load().warmup()

    def unload(self) -> None:
        """Forget the weights: they are freed with the last call that runs, and the next one loads them again."""
        self._lazy.drop()

    async def aunload(self) -> None:
        """Do what `unload` does, the freeing of memory in another thread: the event loop goes on meanwhile."""
        await self._lazy.adrop()

    def _load(self) -> Any:
        return self._lazy.get(self._open)

    async def _aload(self) -> Any:
        return await self._lazy.aget(self._open)

    def _open(self) -> Model:
        from zh_retrieval.loading import load_encoder, load_reranker

        load = load_encoder if self._task == "embedding" else load_reranker
        return load(self.model_name, **self.load_options(), show_progress=self.show_progress)


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
    score_threshold: float | None = Field(
        default=None, description="What has a lower score, after `normalize`, is dropped."
    )
    on_error: Literal["keep", "raise"] = Field(
        default="keep",
        description='For a query that has no scores, empty or too long for query likelihood: "keep" the first `top_n` '
        'in their order with a warning, or "raise" InputError.',
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

    @field_validator("top_n", mode="before")
    @classmethod
    def _any_integer(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else checks.whole_number("top_n", value)

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
            scores = self._scores([(query, document) for document in documents])
        except UnscorableQueryError as error:
            return self._unranked(error, len(documents))
        return self._best(scores)

    async def _aranked(self, query: str, documents: Sequence[str]) -> list[Kept]:
        try:
            scores = await self._ascores([(query, document) for document in documents])
        except UnscorableQueryError as error:
            return self._unranked(error, len(documents))
        return self._best(scores)

    def _best(self, scores: Sequence[float]) -> list[Kept]:
        return [(entry.index, entry.score) for entry in select_ranked(scores, self.top_n, self.score_threshold)]

    def _unranked(self, error: UnscorableQueryError, count: int) -> list[Kept]:
        if self.on_error == "raise":
            raise error
        kept = count if self.top_n is None else min(count, self.top_n)
        logger.warning("%s on_error='keep': %d of %d come back in their order, without scores.", error, kept, count)
        return [(index, None) for index in range(kept)]


def without_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """Return what a dump says beyond the options' defaults: it cannot tell whether these were asked for.

    So the environment of the machine that reads a dump speaks where the one that wrote it left the default.
    """
    return {name: value for name, value in stored.items() if name not in OPTIONS or value != OPTIONS[name].default}
