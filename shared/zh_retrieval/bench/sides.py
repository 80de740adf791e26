"""The engines that are compared, each behind the same three calls.

`encode(texts)` gives document vectors, `query(text)` one query's vector without an instruction, `score(pairs)` raw
logits: float32 arrays, made with the package's own defaults.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zh_retrieval.recipes.spec import ModelSpec, Pooling

Pairs = list[tuple[str, str]]


class Side(Protocol):
    """What is measured."""

    def encode(self, texts: list[str]) -> np.ndarray: ...
    def query(self, text: str) -> np.ndarray: ...
    def score(self, pairs: Pairs) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class SideSpec:
    """How to make a side in another process.

    Attributes:
        name: What the report calls it.
        package: "zh-retrieval" or a peer.
        model: The entry itself: the other process does not know what this one registered.
        folder: Holds the weights; None lets the package fetch them (ours only).
        device: "cpu" or "cuda".
        options: More options of `load_encoder` or `load_reranker` (ours only).
    """

    name: str
    package: str
    model: ModelSpec
    folder: Path | None
    device: str
    options: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Side:
        """Return the loaded side."""
        return _PACKAGES[self.package][1](self)


def installed_peers(spec: ModelSpec) -> list[str]:
    """Return the peers that are installed, know this way of scoring and load this architecture without remote code."""
    if spec.architecture == "jina-bert" or spec.scoring not in (None, "classification"):
        return []
    return [name for name, (module, _) in _PACKAGES.items() if name != "zh-retrieval" and find_spec(module)]


class Ours:
    """This package."""

    def __init__(self, side: SideSpec) -> None:
        import zh_retrieval

        self.spec = side.model
        load = zh_retrieval.load_encoder if self.spec.task == "embedding" else zh_retrieval.load_reranker
        options = {"path": side.folder, "device": side.device} | side.options
        self.handle: Any = load(side.model, **options)
        self._instruction = "" if self.spec.takes_instruction else None

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = self.handle.encode_documents(texts)
        return vectors

    def query(self, text: str) -> np.ndarray:
        vector: np.ndarray = self.handle.encode_queries([text], instruction=self._instruction)[0]
        return vector

    def score(self, pairs: Pairs) -> np.ndarray:
        scores: np.ndarray = self.handle.score(pairs)
        return scores


class SentenceTransformers:
    """sentence-transformers: `SentenceTransformer.encode`, `CrossEncoder.predict`."""

    def __init__(self, side: SideSpec) -> None:
        self._spec = spec = side.model
        if spec.task == "reranking":
            from sentence_transformers import CrossEncoder
            from torch import nn

            self._model: Any = CrossEncoder(
                str(side.folder), max_length=spec.max_length, device=side.device, activation_fn=nn.Identity()
            )
            return
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules

        body = modules.Transformer(str(side.folder), max_seq_length=spec.max_length)
        modes: dict[Pooling | None, Any] = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
        pooling = modules.Pooling(spec.dimension or 0, pooling_mode=modes[spec.pooling])
        self._model = SentenceTransformer(modules=[body, pooling, modules.Normalize()], device=side.device)

    def encode(self, texts: list[str]) -> np.ndarray:
        documents = [self._spec.format_document(text) for text in texts]
        return np.asarray(self._model.encode(documents, show_progress_bar=False), dtype=np.float32)

    def query(self, text: str) -> np.ndarray:
        return np.asarray(self._model.encode([text], show_progress_bar=False)[0], dtype=np.float32)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float32)


class FlagEmbedding:
    """FlagEmbedding: `FlagModel.encode`, `FlagReranker.compute_score`."""

    def __init__(self, side: SideSpec) -> None:
        peer = importlib.import_module("FlagEmbedding")
        self._spec = spec = side.model
        if spec.task == "reranking":
            self._model: Any = peer.FlagReranker(str(side.folder), devices=[side.device])
        else:
            self._model = peer.FlagModel(str(side.folder), pooling_method=spec.pooling, devices=[side.device])

    def encode(self, texts: list[str]) -> np.ndarray:
        documents = [self._spec.format_document(text) for text in texts]
        return np.asarray(self._model.encode(documents), dtype=np.float32)

    def query(self, text: str) -> np.ndarray:
        return np.asarray(self._model.encode([text])[0], dtype=np.float32)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.compute_score(pairs), dtype=np.float32)


_PACKAGES: dict[str, tuple[str, Callable[[SideSpec], Side]]] = {
    "sentence-transformers": ("sentence_transformers", SentenceTransformers),
    "FlagEmbedding": ("FlagEmbedding", FlagEmbedding),
    "zh-retrieval": ("zh_retrieval", Ours),
}
