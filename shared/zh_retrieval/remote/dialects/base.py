"""What every dialect can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import RemoteError

if TYPE_CHECKING:
    from zh_retrieval.recipes.spec import ModelSpec

Side = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as a server describes it; None is what it does not say.

    Attributes:
        id: What the server calls the model.
        max_length: Tokens of one sequence.
        dimension: Length of a vector.
        weights: Tells weights apart.
        dtype: What the server computes in.
        quantization: How its weights are rounded.
        fingerprint: `Model.fingerprint` of the server's own handle.
        sparse: Fingerprint of the model's sparse side; None: it has none.
        max_texts: Most texts of one request.
        max_bytes: Most bytes of one request.
    """

    id: str
    max_length: int | None = None
    dimension: int | None = None
    weights: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    fingerprint: str | None = None
    sparse: str | None = None
    max_texts: int = 32
    max_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of one request: float32 (N, D) vectors or (N,) scores, and how many inputs were cut."""

    rows: np.ndarray
    cut: int = 0


class Dialect(Protocol):
    """One server's language, for one model. Coroutines run in the portal's loop."""

    async def served(self, spec: ModelSpec) -> ModelInfo:
        """Return what the server says of the model; raise if it has another."""
        ...

    async def settle(self) -> None:
        """Find out by asking once what holds for every request, and raise if an option cannot be kept there."""
        ...

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts, without any prompt yet."""
        ...

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return raw scores."""
        ...

    async def chunks(self, document: str, spans: Sequence[Span]) -> Answer:
        """Return vectors of parts of a document."""
        ...


def prompted(spec: ModelSpec, texts: Sequence[str], side: Side, instruction: str | None) -> list[str]:
    """Return texts with the recipe's prompts, for servers that know none."""
    if side == "query":
        return [spec.format_query(text, instruction) for text in texts]
    return [spec.format_document(text) for text in texts]


def whole(value: Any, least: int = 1) -> int:
    """Return a whole number that a server says.

    Raises:
        TypeError, ValueError: It is none, or below `least`.
    """
    number = int(value)
    if isinstance(value, (bool, str)) or number != value:
        raise TypeError(f"{str(value)[:40]!r} is no whole number")
    if number < least:
        raise ValueError(f"{number} is below {least}")
    return number


def optional_text(value: Any) -> str | None:
    """Return a text that a server says, or None.

    Raises:
        TypeError: It is something else.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no text")
    return value


def vectors(lists: Any, count: int) -> np.ndarray:
    """Return a list of `count` vectors as float32 (count, D) of length 1 each.

    Raises:
        RemoteError: There are more or fewer, they differ in length, or hold what is no number.
    """
    try:
        given = np.asarray(lists)
        if given.dtype.kind not in "fiu":  # numpy would read "0.5" and True as numbers
            raise TypeError(given.dtype)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused below
            rows = given.astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise RemoteError("The server's vectors are no lists of numbers of one length.") from None
    if rows.ndim != 2 or rows.shape[0] != count:
        raise RemoteError(f"The server gave vectors of shape {rows.shape} for {count} texts.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or not norms.all():
        raise RemoteError("The server gave vectors that are NaN, infinite or zero.")
    unit: np.ndarray = rows / norms
    return unit
