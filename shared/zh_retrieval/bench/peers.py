"""The packages that others use for the same models, each with its own defaults.

Their pins may contradict ours (optimum-intel needs transformers 4): then they are installed in an environment of their
own, with this package beside them (`pip install --no-deps zh-retrieval`), and measured there.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.bench.sides import Pairs, Side, SideSpec
from zh_retrieval.recipes.spec import ModelSpec, Pooling


@dataclass(frozen=True, slots=True)
class Peer:
    """A package, or one of the ways in which it computes.

    Attributes:
        load: Makes it of a side.
        modules: What must be installed for it.
        packages: Whose versions a report names.
        only_cpu: It computes nowhere else.
    """

    load: Callable[[SideSpec], Side]
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    only_cpu: bool = False


class SentenceTransformers:
    """sentence-transformers: `SentenceTransformer.encode`, `CrossEncoder.predict`."""

    def __init__(self, side: SideSpec, backend: str = "torch", **model_kwargs: Any) -> None:
        self._spec = side.model
        make: Any = _cross_encoder if self._spec.task == "reranking" else _sentence_transformer
        options = {"backend": backend} | ({"model_kwargs": model_kwargs} if model_kwargs else {})
        self._model = make(side, side.folder, options)

    def encode(self, texts: list[str]) -> np.ndarray:
        documents = [self._spec.format_document(text) for text in texts]
        return np.asarray(self._model.encode(documents, show_progress_bar=False), dtype=np.float32)

    def query(self, text: str) -> np.ndarray:
        return np.asarray(self._model.encode([text], show_progress_bar=False)[0], dtype=np.float32)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float32)


class OnnxInt8(SentenceTransformers):
    """sentence-transformers on ONNX Runtime, its weights and activations rounded to int8 for AVX512 with VNNI."""

    def __init__(self, side: SideSpec) -> None:
        from sentence_transformers import export_dynamic_quantized_onnx_model

        self._spec = side.model
        make: Any = _cross_encoder if self._spec.task == "reranking" else _sentence_transformer
        self._folder = tempfile.TemporaryDirectory(prefix="zh-retrieval-bench-onnx-")
        folder = Path(self._folder.name)
        for file in (side.folder or folder).iterdir():
            (folder / file.name).symlink_to(file)
        export_dynamic_quantized_onnx_model(make(side, folder, {"backend": "onnx"}), "avx512_vnni", str(folder))
        file_name = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
        self._model = make(side, folder, {"backend": "onnx", "model_kwargs": file_name})


def _cross_encoder(side: SideSpec, folder: Path | None, options: dict[str, Any]) -> Any:
    from sentence_transformers import CrossEncoder
    from torch import nn

    activation = nn.Identity()  # its scores as they are, like ours
    length = side.model.max_length
    return CrossEncoder(str(folder), max_length=length, device=side.device, activation_fn=activation, **options)


def _sentence_transformer(side: SideSpec, folder: Path | None, options: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:  # before version 6
        modules = importlib.import_module("sentence_transformers.models")
    named = {"model_args": options.get("model_kwargs", {})} if "model_kwargs" in options else {}
    spec, backend = side.model, options["backend"]
    body = modules.Transformer(str(folder), max_seq_length=spec.max_length, backend=backend, **named)
    modes: dict[Pooling | None, Any] = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
    pooling = modules.Pooling(spec.dimension or 0, pooling_mode=modes[spec.pooling])
    return SentenceTransformer(modules=[body, pooling, modules.Normalize()], device=side.device, backend=backend)


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


PEERS: Mapping[str, Peer] = {
    "sentence-transformers": Peer(
        SentenceTransformers, ("sentence_transformers",), ("sentence-transformers", "transformers", "torch")
    ),
    "sentence-transformers-openvino": Peer(
        lambda side: SentenceTransformers(side, "openvino"),
        ("sentence_transformers", "optimum.intel", "openvino"),
        ("sentence-transformers", "optimum-intel", "openvino"),
        only_cpu=True,
    ),
    "sentence-transformers-openvino-float32": Peer(
        lambda side: SentenceTransformers(side, "openvino", ov_config={"INFERENCE_PRECISION_HINT": "f32"}),
        ("sentence_transformers", "optimum.intel", "openvino"),
        ("sentence-transformers", "optimum-intel", "openvino"),
        only_cpu=True,
    ),
    "sentence-transformers-onnx-int8": Peer(
        OnnxInt8,
        ("sentence_transformers", "optimum.onnxruntime", "onnxruntime"),
        ("sentence-transformers", "optimum-onnx", "onnxruntime"),
        only_cpu=True,
    ),
    "FlagEmbedding": Peer(FlagEmbedding, ("FlagEmbedding",), ("FlagEmbedding", "transformers", "torch")),
}
"""Every way that is compared, by the name it has in reports."""


def installed() -> list[str]:
    """Return the peers that this environment has."""
    return [name for name, peer in PEERS.items() if all(map(_is_installed, peer.modules))]


def comparable(spec: ModelSpec, device: str, names: list[str]) -> list[str]:
    """Return those of the peers that know this way of scoring, load this architecture without remote code, and run."""
    if spec.architecture == "jina-bert" or spec.scoring not in (None, "classification"):
        return []
    return [name for name in names if device == "cpu" or not PEERS[name].only_cpu]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
