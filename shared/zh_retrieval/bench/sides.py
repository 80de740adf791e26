"""What is compared, behind the same calls.

`tune(texts)` chooses what a package leaves to its user, `encode(texts)` gives document vectors, `query(text)` one
query's vector without an instruction, `score(pairs)` raw logits: float32 arrays, made with the package's own defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zh_retrieval.recipes.spec import ModelSpec

OURS = "zh-retrieval"

Pairs = list[tuple[str, str]]


class Side(Protocol):
    """What is measured."""

    def tune(self, texts: list[str]) -> int | None: ...
    def encode(self, texts: list[str]) -> np.ndarray: ...
    def query(self, text: str) -> np.ndarray: ...
    def score(self, pairs: Pairs) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class SideSpec:
    """How to make a side in another process.

    Attributes:
        name: What the report calls it.
        package: "zh-retrieval" or a name of `zh_retrieval.bench.peers.PEERS`.
        model: The entry itself: the other process does not know what this one registered.
        folder: Holds the weights; None lets the package fetch them (ours only).
        device: "cpu" or "cuda".
        options: More options of `load_encoder` or `load_reranker` (ours only).
        python: The interpreter that has the package.
    """

    name: str
    package: str
    model: ModelSpec
    folder: Path | None
    device: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None


class Ours:
    """This package."""

    def __init__(self, side: SideSpec) -> None:
        import zh_retrieval

        self.spec = side.model
        load = zh_retrieval.load_encoder if self.spec.task == "embedding" else zh_retrieval.load_reranker
        options = {"path": side.folder, "device": side.device} | side.options
        self.handle: Any = load(side.model, **options)
        self._instruction = "" if self.spec.takes_instruction else None

    def tune(self, texts: list[str]) -> None:
        """Choose nothing: there is no batch size to find."""

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = self.handle.encode_documents(texts)
        return vectors

    def query(self, text: str) -> np.ndarray:
        vector: np.ndarray = self.handle.encode_queries([text], instruction=self._instruction)[0]
        return vector

    def score(self, pairs: Pairs) -> np.ndarray:
        scores: np.ndarray = self.handle.score(pairs)
        return scores
