"""One sparse vector in the forms of both stores' packages, and a class that both packages take for one of theirs."""

from __future__ import annotations

import importlib
import logging
from abc import ABCMeta

from zh_retrieval.checks import is_installed
from zh_retrieval.sparse.vector import SparseVector

logger = logging.getLogger(__name__)

_INTERFACES = (
    ("langchain_qdrant.sparse_embeddings", "SparseEmbeddings"),
    ("langchain_milvus.utils.sparse", "BaseSparseEmbedding"),
)


class _Values(list[float]):
    """Values as a list, for Qdrant; called, as a dictionary's `values()` is, the same."""

    def __call__(self) -> list[float]:
        return self


class SparseEmbedding(dict[int, float]):
    """A sparse vector: {index: value} as Milvus wants it, with `indices` and `values` as Qdrant does."""

    @classmethod
    def of(cls, vector: SparseVector) -> SparseEmbedding:
        """Return a vector of the core as one."""
        return cls(vector.as_dict())

    @property
    def indices(self) -> list[int]:
        """Return the indices, in the order of `values`."""
        return list(self)

    @property
    def values(self) -> _Values:  # type: ignore[override]
        """Return the values, in the order of `indices`."""
        return _Values(super().values())


def register_with_stores(cls: ABCMeta) -> None:
    """Make `cls` a virtual subclass of langchain-qdrant's and langchain-milvus' interfaces, where these are installed.

    Milvus asks by isinstance whether an embedding is sparse. Neither package is needed, or imported with ours.
    """
    for module, name in _INTERFACES:
        if not is_installed(module.partition(".")[0]):
            continue
        try:
            interface = getattr(importlib.import_module(module), name)
        except Exception as error:  # a broken package is a matter of whoever uses it
            logger.debug("%s cannot be imported: %r", module, error)
        else:
            interface.register(cls)
