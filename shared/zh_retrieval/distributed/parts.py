"""The rows of a folder of parts, of `embed --ray` or of Ray Data, for those who make an index of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.writing.encoded import SPARSE

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one part that have vectors.

    Attributes:
        name: Its file name.
        ids: As in the input.
        texts: As they were embedded.
        vectors: float32 (N, D); (N, 0) of parts without dense vectors.
        others: The other columns, a pyarrow table of N rows.
        sparse: N pairs of uint32 (K,) indices and float32 (K,) values; None of parts without sparse vectors.
    """

    name: str
    ids: list[str]
    texts: list[str]
    vectors: np.ndarray
    others: Any = None
    sparse: list[tuple[np.ndarray, np.ndarray]] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of parts are called; those of `embed --ray` by default."""

    id: str = "id"
    text: str = "text"
    vector: str = "embedding"


class Parts:
    """The parts of a folder, each read when it is asked for.

    Attributes:
        names: Of the parts, sorted.
        identity: What tells these vectors from those of other models, weights and options; "" where nobody says it.
        sparse: The name of the sparse model; None where there is none, or nobody says it.
    """

    def __init__(self, folder: str, columns: Columns | None = None) -> None:
        """Look what is there; that a job has not ended yet is logged as a warning.

        Raises:
            ConfigError: The folder holds no parts.
        """
        self._folder = PartFolder(folder)
        self._columns = columns or Columns()
        self.names = sorted(self._folder.parts())
        if not self.names:
            raise ConfigError(f"{folder} holds no parts. Give the --output of `zh-retrieval embed --ray`.")
        manifest = self._folder.manifest()
        self.identity = self._folder.identity
        self.sparse: str | None = (manifest or {}).get("job", {}).get("sparse", {}).get("model")
        if manifest is not None and not manifest.get("finished", False):
            _LOGGER.warning(
                "%s is of a job that has not ended: %d parts are there, and more may come. Do this again when "
                "`zh-retrieval embed --ray` has ended with status 0.", folder, len(self.names),
            )  # fmt: skip

    def read(self, name: str) -> Part:
        """Return the rows of a part that have vectors.

        Raises:
            ConfigError: It lacks a column, or its vectors are of several lengths.
        """
        table, columns = self._folder.read(name), self._columns
        sparse = all(column in table.column_names for column in SPARSE)
        dense = columns.vector in table.column_names
        for column in (columns.id, columns.text, *(() if sparse else (columns.vector,))):
            if column not in table.column_names:
                raise ConfigError(
                    f"{name} has no column {column!r}, only {', '.join(map(repr, table.column_names))}. Say which with "
                    "columns=Columns(id=..., text=..., vector=...)."
                )
        table = table.filter(table.column(columns.vector if dense else SPARSE[0]).is_valid())
        error = "embedding_error" if "embedding_error" in table.column_names else "error"
        ours = {columns.id, columns.text, columns.vector, error, *(SPARSE if sparse else ())}
        others = table.drop_columns([name for name in ours if name in table.column_names])
        ids = [str(value) for value in table.column(columns.id).to_pylist()]
        vectors = _vectors(table.column(columns.vector)) if dense else np.empty((len(ids), 0), np.float32)
        texts = table.column(columns.text).to_pylist()
        return Part(name, ids, texts, vectors, others, _sparse(table) if sparse else None)

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts by name."""
        return map(self.read, self.names)


def _vectors(column: Any) -> np.ndarray:
    """Return float32 (N, D) of a column of lists, or of tensors as Ray Data writes them."""
    column = column.combine_chunks()
    if isinstance(column, require("pyarrow").ExtensionArray):
        column = column.storage
    rows = len(column)
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if rows and (len(flat) % rows or not _even(column, len(flat) // rows)):
        raise ConfigError("Vectors of one part have several lengths. Embed them with one model.")
    width = len(flat) // rows if rows else getattr(column.type, "list_size", 0)
    return flat.reshape(rows, width)


def _sparse(table: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each row's indices and values."""
    both = []
    for name, kind in zip(SPARSE, (np.uint32, np.float32), strict=True):
        column = table.column(name).combine_chunks()
        ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False)).astype(int)
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(kind, copy=False)
        both.append(np.split(flat, ends[:-1]) if len(ends) else [])
    if [len(row) for row in both[0]] != [len(row) for row in both[1]]:
        raise ConfigError(f"A row has more {SPARSE[0]} than {SPARSE[1]}, or fewer. Embed them again.")
    return list(zip(*both, strict=True))


def _even(column: Any, width: int) -> bool:
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return bool((lengths == width).all())


def read_parts(folder: str, *, columns: Columns | None = None) -> Iterator[Part]:
    """Yield the parts that `embed --ray` or `EmbedDocuments` wrote, by name; rows without vectors are left out.

    Args:
        folder: A path or a URI.
        columns: What the columns are called, where not "id", "text" and "embedding".

    Raises:
        ConfigError: The folder holds none.
    """
    return iter(Parts(folder, columns))
