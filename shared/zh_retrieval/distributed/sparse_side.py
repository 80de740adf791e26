"""The sparse vectors of an upload: those that parts hold, or those that a model makes of their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.distributed.parts import Part, Parts
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.registry import check_task, get_spec

if TYPE_CHECKING:
    from zh_retrieval.base import SparseEncoder

Rows = list[tuple[np.ndarray, np.ndarray]]
"""Of each text: uint32 (K,) indices and float32 (K,) values."""


class SparseSide:
    """What `upload_qdrant` was given as `sparse`; a model that is named is loaded when a part lacks its vectors.

    Attributes:
        identity: What tells these vectors from others; "" where there are none.
        counts_rarity: The store has to weight terms by how rare they are.
    """

    def __init__(self, sparse: str | SparseEncoder | None, parts: Parts) -> None:
        """Take a name, a model or None.

        Raises:
            UnknownModelError, WrongTaskError: The name is that of no sparse model.
            ConfigError: The parts hold vectors of another one.
        """
        self._model: SparseEncoder | None = None if isinstance(sparse, str) else sparse
        self._own = self._model is None
        self.identity, self.counts_rarity = "", False
        if sparse is None:
            return
        spec = get_spec(sparse) if isinstance(sparse, str) else sparse.spec
        check_task(spec, "sparse")
        self._spec = spec
        self.identity = spec.name if self._model is None else self._model.fingerprint
        self.counts_rarity = spec.task == "sparse" if self._model is None else self._model.needs_idf
        if self._own and parts.sparse not in (None, spec.name):
            raise ConfigError(
                f"The parts hold sparse vectors of {parts.sparse!r}, not of {spec.name!r}. Name that, or give a model "
                "of load_sparse_encoder, which makes them anew."
            )

    def of(self, part: Part) -> Rows | None:
        """Return the sparse vectors of a part's rows; None where none are wanted."""
        if not self.identity:
            return None
        if self._own and part.sparse is not None:
            return part.sparse
        if self._model is None:
            from zh_retrieval.loading import load_sparse_encoder

            self._model = load_sparse_encoder(self._spec)
        return [(vector.indices, vector.values) for vector in self._model.encode_documents(part.texts)]

    def __enter__(self) -> SparseSide:
        """Return itself; what it loaded is closed at the end of the block."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the model that it loaded; one that was given stays open."""
        if self._own and self._model is not None:
            self._model.close()
