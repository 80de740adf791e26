"""An encoder, a sparse encoder, or both, as one that texts go into; what a job or a worker opens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from zh_retrieval.base import HybridEncoder
from zh_retrieval.distributed.resources import use_threads
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.files.writing.encoded import Encoded
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sparse.options import sparse_options

if TYPE_CHECKING:
    from zh_retrieval.base import Encoder, SparseEncoder

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Role = Literal["document", "query"]
_INDEXED = re.compile(r"\b(?:texts|pairs)\[0\]")  # an item that was tried alone


def compute_valid(
    compute: Callable[[Sequence[ItemT]], ResultT],
    items: Sequence[ItemT],
    join: Callable[[Sequence[ResultT]], ResultT] = np.concatenate,  # type: ignore[assignment]
) -> tuple[list[int], ResultT, dict[int, str]]:
    """Return the indices of the good items, their results joined, and the error of each bad one by its index.

    What fails together is tried in halves, so one bad item among n costs about log2(n) calls that stop at once.
    """
    good: list[int] = []
    found: list[ResultT] = []
    errors: dict[int, str] = {}
    waiting = [(0, len(items))]
    while waiting:
        low, high = waiting.pop()
        try:
            found.append(compute(items[low:high]))
            good += range(low, high)
        except InputError as error:
            if high - low == 1:
                errors[low] = _INDEXED.sub("the text", str(error))
            else:
                middle = (low + high) // 2
                waiting += [(middle, high), (low, middle)]
    return good, join(found) if found else compute([]), errors


@dataclass(frozen=True, slots=True)
class Encoding:
    """Which vectors texts become: names and options, which travel; what is loaded does not.

    Attributes:
        model: Name or recipe of the embedding model; None for no dense vectors.
        options: Those of `load_encoder`.
        sparse: Name or recipe of the sparse model; None for no sparse vectors.
        sparse_options: Those of `load_sparse_encoder`.
        role: What the texts are.
        instruction: Replaces the model's query instruction.
    """

    model: str | ModelSpec | None
    options: dict[str, Any] = field(default_factory=dict)
    sparse: str | ModelSpec | None = None
    sparse_options: dict[str, Any] = field(default_factory=dict)
    role: Role = "document"
    instruction: str | None = None

    def check(self) -> None:
        """Raise what `open` would raise for names and options that make no sense."""
        if self.model is None and self.sparse is None:
            raise ConfigError("Neither dense nor sparse vectors are asked for. Name a model, or a sparse one.")
        if self.model is not None:
            check_task(get_spec(self.model), "embedding")
            LoadOptions.given(**self.options).check("embedding")
        if self.sparse is not None:
            sparse_options(get_spec(self.sparse), self.sparse_options)

    def with_threads(self, threads: int | None) -> Encoding:
        """Return the same, computed in so many CPU threads unless the options say how many."""
        sparse = self.sparse_options
        if self.sparse is not None and get_spec(self.sparse).task != "sparse":  # else it has no weights
            sparse = use_threads(sparse, threads)
        return replace(self, options=use_threads(self.options, threads), sparse_options=sparse)

    def open(self) -> Encoders:
        """Return the loaded models, which the caller closes."""
        import zh_retrieval

        with ExitStack() as stack:
            dense = sparse = None
            if self.model is not None:
                dense = stack.enter_context(zh_retrieval.load_encoder(self.model, **self.options))
            if self.sparse is not None:
                sparse = stack.enter_context(zh_retrieval.load_sparse_encoder(self.sparse, **self.sparse_options))
            stack.pop_all()  # both are open: they are the caller's
        return Encoders(dense, sparse, self.role, self.instruction, one=self._is_one())

    def _is_one(self) -> bool:
        """Return True if both sides are one model, loaded in one way, so that one pass gives both."""
        if self.model is None or self.sparse is None or self.instruction is not None:
            return False
        return get_spec(self.model) == get_spec(self.sparse) and self.options == self.sparse_options


class Encoders:
    """What an `Encoding` opens.

    Attributes:
        dense: The embedding model, or None.
        sparse: The sparse model, or None.
    """

    def __init__(
        self, dense: Encoder | None, sparse: SparseEncoder | None, role: Role = "document",
        instruction: str | None = None, *, one: bool = False,
    ) -> None:  # fmt: skip
        """Take one or both, what texts are, and whether both are one model."""
        self.dense, self.sparse = dense, sparse
        self._one = sparse if one and isinstance(sparse, HybridEncoder) else None
        self._role, self._instruction = role, instruction

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the vectors of the texts.

        Raises:
            InputError: A text is none, or is too long with overflow="error"; the message names its index.
        """
        if self._one is not None:
            both = self._one.encode_queries_both if self._role == "query" else self._one.encode_documents_both
            return Encoded(*both(texts))
        dense = sparse = None
        if self.dense is not None:
            dense = (
                self.dense.encode_queries(texts, instruction=self._instruction) if self._role == "query"
                else self.dense.encode_documents(texts)
            )  # fmt: skip
        if self.sparse is not None:
            sparse = self.sparse.encode_queries(texts) if self._role == "query" else self.sparse.encode_documents(texts)
        return Encoded(dense, sparse)

    def encode_valid(self, texts: Sequence[str]) -> tuple[list[int], Encoded, dict[int, str]]:
        """Return the indices of the good texts, their vectors, and the error of each bad one by its index."""
        return compute_valid(self.encode, texts, joined)

    def identity(self) -> dict[str, str]:
        """Return what tells the vectors from those of other models, weights and options, by name."""
        said: dict[str, str] = {}
        if self.dense is not None:
            said |= {"model": self.dense.spec.name, "weights and options": self.dense.fingerprint}
        if self.sparse is not None:
            said |= {"sparse model": self.sparse.spec.name, "sparse weights and options": self.sparse.fingerprint}
        return said

    @property
    def closed(self) -> bool:
        """Return True if one of them is closed."""
        return any(model.closed for model in self._models)

    def close(self) -> None:
        """Close them."""
        for model in self._models:
            model.close()

    def __enter__(self) -> Encoders:
        """Return itself, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        self.close()

    @property
    def _models(self) -> list[Encoder | SparseEncoder]:
        return [model for model in (self.dense, self.sparse) if model is not None]


def missing_of(errors: Mapping[int, str], count: int) -> np.ndarray:
    """Return bool (N,), True where there is an error."""
    missing = np.zeros(count, dtype=bool)
    missing[list(errors)] = True
    return missing


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Return the vectors of all parts, one behind the other; there is at least one."""
    first = parts[0]
    return Encoded(
        None if first.dense is None else np.concatenate([part.dense for part in parts if part.dense is not None]),
        None if first.sparse is None else [vector for part in parts for vector in part.sparse or ()],
    )
