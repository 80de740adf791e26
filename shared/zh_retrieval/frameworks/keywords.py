"""The arguments of the adapters' classes, for type checkers.

A pydantic class has an `__init__` that checkers make up: it knows no positional model, and no field by its own name
beside an alias. So each public class declares its own, of these.
"""

from __future__ import annotations

from typing import Literal

from zh_retrieval.options import LoadKwargs


class ModelKwargs(LoadKwargs, total=False):
    """What both tasks take besides the options."""

    model_name: str
    show_progress: bool


class EncoderKwargs(ModelKwargs, total=False):
    """The fields of an embedding model."""

    query_instruction: str | None


class SparseKwargs(ModelKwargs, total=False):
    """The fields of a model of sparse vectors."""

    k1: float | None
    b: float | None
    average_length: float | None


class RerankerKwargs(ModelKwargs, total=False):
    """The fields of a reranking model, besides `normalize`, which says what fits its scores."""

    top_n: int | None
    depth: int | None
    score_threshold: float | None
    on_error: Literal["keep", "raise"]
    instruction: str | None
