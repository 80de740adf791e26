"""Classes for `ray.data.Dataset.map_batches`: names and options travel, weights load once in each actor.

They need Ray for nothing: any engine that maps a callable over Arrow tables can use them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from zh_retrieval.distributed.resources import assigned_threads, require, use_threads
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pyarrow as pa

OnError = Literal["raise", "null"]
ItemT = TypeVar("ItemT")


def each(
    compute: Callable[[Sequence[ItemT]], np.ndarray], items: Sequence[ItemT]
) -> tuple[list[int], np.ndarray, dict[int, str]]:
    """Return the indices of the good items, their rows, and the error of each bad one by its index.

    What fails together is tried in halves, so one bad item among n costs about log2(n) calls that stop at once.
    """
    good: list[int] = []
    rows: list[np.ndarray] = []
    errors: dict[int, str] = {}
    waiting = [(0, len(items))]
    while waiting:
        low, high = waiting.pop()
        try:
            rows.append(compute(items[low:high]))
            good += range(low, high)
        except InputError as error:
            if high - low == 1:
                errors[low] = str(error)
            else:
                middle = (low + high) // 2
                waiting += [(middle, high), (low, middle)]
    return good, np.concatenate(rows) if rows else compute([]), errors


class _Mapping:
    _task: Task

    def __init__(
        self, model: str | ModelSpec, columns: dict[str, str], on_error: OnError, threads: int | None, **options: Any
    ) -> None:
        if on_error not in ("raise", "null"):
            raise ConfigError(f"on_error={on_error!r} is unknown. Use 'raise' or 'null'.")
        check_task(get_spec(model), self._task)
        LoadOptions.given(**options)
        self._model = model
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
            self._loaded = self._load(use_threads(self._options, self._threads or assigned_threads()))
        return self._loaded

    def _load(self, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _column(self, batch: pa.Table, what: str) -> list[Any]:
        name = self._columns[what]
        if name not in batch.column_names:
            raise ConfigError(f"There is no column {name!r}, only {', '.join(map(repr, batch.column_names))}.")
        values: list[Any] = batch.column(name).to_pylist()
        return values

    def _compute(
        self, compute: Callable[[Sequence[Any]], np.ndarray], items: list[Any]
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Return the rows (zeros where there is none), a mask of those without, and what was wrong with these."""
        if self._on_error == "raise":
            return compute(items), np.zeros(len(items), dtype=bool), [None] * len(items)
        good, computed, errors = each(compute, items)
        rows = np.zeros((len(items), *computed.shape[1:]), dtype=np.float32)
        rows[good] = computed
        missing = np.ones(len(items), dtype=bool)
        missing[good] = False
        return rows, missing, [errors.get(index) for index in range(len(items))]

    def _with(self, batch: pa.Table, result: str, values: pa.Array, errors: list[str | None]) -> pa.Table:
        pa = require("pyarrow")
        added = {self._columns[result]: values}
        if self._on_error == "null":
            added[self._columns["error"]] = pa.array(errors, type=pa.string())
        for name, column in added.items():
            if name in batch.column_names:
                raise ConfigError(f"The column {name!r} is there already. Choose another name for it.")
            batch = batch.append_column(name, column)
        return batch


class EmbedDocuments(_Mapping):
    """Adds a column of document vectors to Arrow tables: FixedSizeList<float32>[D], which every reader of Arrow knows.

    `dataset.map_batches(EmbedDocuments, fn_constructor_kwargs={"model": "bge-base-zh"}, batch_format="pyarrow", ...)`;
    `embed_dataset` chooses the rest.
    """

    _task = "embedding"

    def __init__(
        self,
        model: str | ModelSpec,
        *,
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
            text_column: Where the texts are; other columns stay as they are.
            vector_column: Where the vectors go.
            error_column: With on_error="null": what was wrong with a row, null for good ones.
            on_error: A text that is none, or is too long with overflow="error": "raise" InputError, or "null".
            threads: CPU threads; by default the CPUs that Ray assigned to the actor, at least 1.
            options: Those of `load_encoder`.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model is a reranker.
            ConfigError: An option has a value that this model does not support.
        """
        columns = {"text": text_column, "vector": vector_column, "error": error_column}
        super().__init__(model, columns, on_error, threads, **options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the table with its vectors."""
        pa = require("pyarrow")
        encoder = self._get()
        vectors, missing, errors = self._compute(encoder.encode_documents, self._column(batch, "text"))
        mask = pa.array(missing) if missing.any() else None
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, encoder.dimension, mask=mask)
        return self._with(batch, "vector", column, errors)

    def _load(self, options: dict[str, Any]) -> Any:
        from zh_retrieval.loading import load_encoder

        return load_encoder(self._model, **options)


class ScorePairs(_Mapping):
    """Adds a column of raw scores (float32) of the pairs in two columns to Arrow tables; higher is better."""

    _task = "reranking"

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
        columns = {"query": query_column, "document": document_column, "score": score_column, "error": error_column}
        super().__init__(model, columns, on_error, threads, **options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the table with its scores."""
        pa = require("pyarrow")
        pairs = list(zip(self._column(batch, "query"), self._column(batch, "document"), strict=True))
        scores, missing, errors = self._compute(self._get().score, pairs)
        return self._with(batch, "score", pa.array(scores, type=pa.float32(), mask=missing), errors)

    def _load(self, options: dict[str, Any]) -> Any:
        from zh_retrieval.loading import load_reranker

        return load_reranker(self._model, **options)
