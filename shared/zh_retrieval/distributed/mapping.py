"""Classes for `ray.data.Dataset.map_batches`: names and options travel, weights load once in each actor.

They need Ray for nothing: any engine that maps a callable over Arrow tables can use them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zh_retrieval.base import Reranker
from zh_retrieval.distributed.encoding import Encoders, Encoding, compute_valid, missing_of
from zh_retrieval.distributed.resources import assigned_threads, require, use_threads
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.writing.encoded import DENSE
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa

OnError = Literal["raise", "null"]


class _Mapping(ABC):
    def __init__(
        self, columns: dict[str, str], on_error: OnError, threads: int | None, options: dict[str, Any]
    ) -> None:
        if on_error not in ("raise", "null"):
            raise ConfigError(f"on_error={on_error!r} is unknown. Use 'raise' or 'null'.")
        LoadOptions.given(**options)
        self._columns = columns
        self._on_error = on_error
        self._threads = threads
        self._options = options
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return names and options: what is loaded stays where it is."""
        return {**self.__dict__, "_loaded": None}

    def _get(self) -> Any:
        if self._loaded is None or self._loaded.closed:
            self._loaded = self._load(self._threads or assigned_threads())
        return self._loaded

    @abstractmethod
    def _load(self, threads: int | None) -> Any:
        """Load the weights, which compute in so many CPU threads."""

    def _column(self, batch: pa.Table, what: str) -> list[Any]:
        if not hasattr(batch, "column_names"):
            raise ConfigError(
                f"The batch is a {type(batch).__name__}, not an Arrow table. Call map_batches with "
                'batch_format="pyarrow".'
            )
        name = self._columns[what]
        if name not in batch.column_names:
            raise ConfigError(f"There is no column {name!r}, only {', '.join(map(repr, batch.column_names))}.")
        values: list[Any] = batch.column(name).to_pylist()
        return values

    def _with(self, batch: pa.Table, made: dict[str, pa.Array], errors: dict[int, str]) -> pa.Table:
        pa = require("pyarrow")
        if self._on_error == "null":
            said = [errors.get(index) for index in range(len(batch))]
            made = {**made, self._columns["error"]: pa.array(said, type=pa.string())}
        for name, column in made.items():
            if name in batch.column_names:
                raise ConfigError(f"The column {name!r} is there already. Choose another name for it.")
            batch = batch.append_column(name, column)
        return batch


class EmbedDocuments(_Mapping):
    """Adds document vectors to Arrow tables: dense ones, sparse ones, or both.

    Dense is a column FixedSizeList<float32>[D], which every reader of Arrow knows; sparse are List<uint32>
    "sparse_indices" and List<float32> "sparse_values".

    `dataset.map_batches(EmbedDocuments, fn_constructor_kwargs={"model": "bge-base-zh"}, batch_format="pyarrow", ...)`;
    `embed_dataset` chooses the rest.
    """

    def __init__(
        self,
        model: str | ModelSpec | None,
        *,
        sparse: str | ModelSpec | None = None,
        sparse_options: Mapping[str, Any] | None = None,
        text_column: str = "text",
        vector_column: str = "embedding",
        error_column: str = "error",
        on_error: OnError = "raise",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Check the names; the weights load with the first batch.

        Args:
            model: Name, alias or hub id, or a recipe: one that was registered is known to no other process by name.
                None leaves the dense vectors out.
            sparse: "bm25-zh", "bge-m3", ...: adds sparse vectors. None leaves them out.
            sparse_options: Those of `load_sparse_encoder`.
            text_column: Where the texts are; other columns stay as they are.
            vector_column: Where the dense vectors go.
            error_column: With on_error="null": what was wrong with a row, null for good ones.
            on_error: A text that is none, or is too long with overflow="error": "raise" InputError, or "null".
            threads: CPU threads; by default the CPUs that Ray assigned to the actor, at least 1.
            options: Those of `load_encoder`.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model is a reranker, or `sparse` has no sparse vectors.
            ConfigError: An option has a value that this model does not support, or neither is asked for.
        """
        columns = {"text": text_column, "error": error_column}
        super().__init__(columns, on_error, threads, options)
        self._vector_column = vector_column
        self._encoding = Encoding(model, options, sparse, dict(sparse_options or {}))
        self._encoding.check()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the table with its vectors."""
        encoders, texts = self._get(), self._column(batch, "text")
        errors: dict[int, str] = {}
        if self._on_error == "raise":
            found, missing = encoders.encode(texts), None
        else:
            good, valid, errors = encoders.encode_valid(texts)
            found, missing = valid.spread(good, len(texts)), missing_of(errors, len(texts))
        columns = {
            self._vector_column if name == DENSE else name: column for name, column in found.columns(missing).items()
        }
        return self._with(batch, columns, errors)

    def _load(self, threads: int | None) -> Encoders:
        return self._encoding.with_threads(threads).open()


class ScorePairs(_Mapping):
    """Adds a column of raw scores (float32) of the pairs in two columns to Arrow tables; higher is better."""

    def __init__(
        self,
        model: str | ModelSpec,
        *,
        query_column: str = "query",
        document_column: str = "document",
        score_column: str = "score",
        error_column: str = "error",
        on_error: OnError = "raise",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Check the names; the weights load with the first batch. Arguments and errors are as for `EmbedDocuments`."""
        check_task(get_spec(model), "reranking")
        columns = {"query": query_column, "document": document_column, "score": score_column, "error": error_column}
        super().__init__(columns, on_error, threads, options)
        self._model = model

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the table with its scores."""
        pa = require("pyarrow")
        pairs = list(zip(self._column(batch, "query"), self._column(batch, "document"), strict=True))
        score = self._get().score
        errors: dict[int, str] = {}
        if self._on_error == "raise":
            scores, missing = score(pairs), None
        else:
            good, found, errors = compute_valid(score, pairs)
            scores, missing = np.zeros(len(pairs), dtype=np.float32), missing_of(errors, len(pairs))
            scores[good] = found
        return self._with(batch, {self._columns["score"]: pa.array(scores, type=pa.float32(), mask=missing)}, errors)

    def _load(self, threads: int | None) -> Reranker:
        from zh_retrieval.loading import load_reranker

        return load_reranker(self._model, **use_threads(self._options, threads))
