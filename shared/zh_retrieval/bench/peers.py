"""The packages that others use for the same models, each with its own defaults.

Their pins may contradict ours (optimum-intel needs transformers 4): then they are installed in an environment of their
own, with this package beside them (`pip install --no-deps zh-retrieval`), and measured there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from zh_retrieval.bench.sbert import OnnxInt8, OpenVinoInt8, SentenceTransformers, flash
from zh_retrieval.bench.sides import OURS, Ours, Pairs, Side, SideSpec
from zh_retrieval.checks import is_installed
from zh_retrieval.recipes.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Peer:
    """A package, or one of the ways in which it computes.

    Attributes:
        load: Makes it of a side.
        modules: What must be installed for it.
        packages: Whose versions a report names.
        device: "cpu" or "cuda", where it computes; None: on both.
    """

    load: Callable[[SideSpec], Side]
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    device: str | None = None


class FlagEmbedding:
    """FlagEmbedding: `FlagModel.encode`, `FlagReranker.compute_score`."""

    def __init__(self, side: SideSpec) -> None:
        peer = importlib.import_module("FlagEmbedding")
        self._spec = spec = side.model
        if spec.task == "reranking":
            self._model: Any = peer.FlagReranker(str(side.folder), devices=[side.device])
        else:
            self._model = peer.FlagModel(str(side.folder), pooling_method=spec.pooling, devices=[side.device])

    def tune(self, texts: list[str]) -> None:
        """Choose nothing: FlagEmbedding finds its batch size."""

    def encode(self, texts: list[str]) -> np.ndarray:
        documents = [self._spec.format_document(text) for text in texts]
        return np.asarray(self._model.encode(documents), dtype=np.float32)

    def query(self, text: str) -> np.ndarray:
        return np.asarray(self._model.encode([text])[0], dtype=np.float32)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.compute_score(pairs), dtype=np.float32)


_OURS = Peer(Ours, (), (OURS, "openvino", "torch", "transformers"))

PEERS: Mapping[str, Peer] = {
    "sentence-transformers": Peer(
        SentenceTransformers, ("sentence_transformers",), ("sentence-transformers", "transformers", "torch")
    ),
    "sentence-transformers-openvino": Peer(
        lambda side: SentenceTransformers(side, "openvino"),
        ("sentence_transformers", "optimum.intel", "openvino"),
        ("sentence-transformers", "optimum-intel", "openvino"),
        device="cpu",
    ),
    "sentence-transformers-openvino-float32": Peer(
        lambda side: SentenceTransformers(side, "openvino", ov_config={"INFERENCE_PRECISION_HINT": "f32"}),
        ("sentence_transformers", "optimum.intel", "openvino"),
        ("sentence-transformers", "optimum-intel", "openvino"),
        device="cpu",
    ),
    "sentence-transformers-onnx-int8": Peer(
        OnnxInt8,
        ("sentence_transformers", "optimum.onnxruntime", "onnxruntime"),
        ("sentence-transformers", "optimum-onnx", "onnxruntime"),
        device="cpu",
    ),
    "sentence-transformers-openvino-qint8": Peer(
        OpenVinoInt8,
        ("sentence_transformers", "optimum.intel", "openvino", "nncf", "datasets"),
        ("sentence-transformers", "optimum-intel", "openvino", "nncf"),
        device="cpu",
    ),
    "sentence-transformers-flash": Peer(
        flash,
        ("sentence_transformers", "flash_attn"),
        ("sentence-transformers", "transformers", "torch", "flash-attn"),
        device="cuda",
    ),
    "FlagEmbedding": Peer(FlagEmbedding, ("FlagEmbedding",), ("FlagEmbedding", "transformers", "torch")),
}
"""Every way that is compared, by the name it has in reports."""


def load(side: SideSpec) -> tuple[Side, dict[str, str]]:
    """Return a loaded side, ours or a peer's, and the versions of what computes there, where they are installed."""
    peer = PEERS.get(side.package, _OURS)
    found = {name: _version(name) for name in peer.packages}
    return peer.load(side), {name: text for name, text in found.items() if text is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing() -> dict[str, list[str]]:
    """Return the modules that each peer needs and this environment has not."""
    return {name: [module for module in peer.modules if not is_installed(module)] for name, peer in PEERS.items()}


def comparable(spec: ModelSpec, device: str) -> list[str]:
    """Return the peers that know this way of scoring, load this architecture without remote code, and run."""
    if spec.architecture in ("jina-bert", "gte") or spec.scoring not in (None, "classification"):
        return []
    return [name for name, peer in PEERS.items() if peer.device in (None, device)]
