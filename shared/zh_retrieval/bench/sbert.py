"""sentence-transformers in all the ways in which it computes: torch, OpenVINO, ONNX Runtime, flash attention."""

from __future__ import annotations

import importlib
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.bench import workload
from zh_retrieval.bench.sides import Pairs, SideSpec
from zh_retrieval.engine.hardware import cpu_features
from zh_retrieval.recipes.spec import Pooling

_BATCHES = {"cpu": (4, 8, 32), "cuda": (32, 128, 512, 2048)}  # inputs, of which the quickest is kept
_CALIBRATION = 300  # texts, as many as optimum-intel takes of its own data set


class SentenceTransformers:
    """sentence-transformers: `SentenceTransformer.encode`, `CrossEncoder.predict`."""

    _batch = 32  # its default

    def __init__(self, side: SideSpec, backend: str = "torch", **model_kwargs: Any) -> None:
        self._spec = side.model
        make: Any = _cross_encoder if self._spec.task == "reranking" else _sentence_transformer
        options = {"backend": backend} | ({"model_kwargs": model_kwargs} if model_kwargs else {})
        self._model = make(side, side.folder, options)

    def tune(self, texts: list[str]) -> int:
        """Use the batch size that embeds these texts in the least time, and return it."""
        sizes = _BATCHES.get(str(self._model.device).split(":")[0], _BATCHES["cpu"])
        seconds: dict[int, float] = {}
        for self._batch in sizes:
            start = time.perf_counter()
            self.encode(texts)
            seconds[self._batch] = time.perf_counter() - start
        self._batch = min(sizes, key=lambda size: seconds[size])
        return self._batch

    def encode(self, texts: list[str]) -> np.ndarray:
        documents = [self._spec.format_document(text) for text in texts]
        vectors = self._model.encode(documents, batch_size=self._batch, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def query(self, text: str) -> np.ndarray:
        return np.asarray(self._model.encode([text], show_progress_bar=False)[0], dtype=np.float32)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float32)


class OnnxInt8(SentenceTransformers):
    """sentence-transformers on ONNX Runtime, weights and activations rounded to int8 as its guide says for this CPU."""

    def __init__(self, side: SideSpec) -> None:
        from sentence_transformers import export_dynamic_quantized_onnx_model

        self._spec = side.model
        make: Any = _cross_encoder if self._spec.task == "reranking" else _sentence_transformer
        self._folder = tempfile.TemporaryDirectory(prefix="zh-retrieval-bench-onnx-")
        folder, kind = Path(self._folder.name), onnx_kind()
        for file in (side.folder or folder).iterdir():
            (folder / file.name).symlink_to(file)
        export_dynamic_quantized_onnx_model(make(side, folder, {"backend": "onnx"}), kind, str(folder))
        (made,) = (folder / "onnx").glob(f"model_*_{kind}.onnx")  # its name also says the weights' type
        file_name = {"file_name": f"onnx/{made.name}"}
        self._model = make(side, folder, {"backend": "onnx", "model_kwargs": file_name})


def onnx_kind() -> str:
    """Return what sentence-transformers calls this CPU when it rounds an ONNX file to int8."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    features = cpu_features()
    return next((name for name in ("avx512_vnni", "avx512") if features[name]), "avx2")


class OpenVinoInt8(SentenceTransformers):
    """sentence-transformers on OpenVINO, weights and activations rounded to int8 with ranges found beforehand.

    As `export_static_quantized_openvino_model` makes it, calibrated on texts of the workload: its own are English.
    """

    def __init__(self, side: SideSpec) -> None:
        from sentence_transformers import export_static_quantized_openvino_model

        self._spec = side.model
        make: Any = _cross_encoder if self._spec.task == "reranking" else _sentence_transformer
        self._folder = tempfile.TemporaryDirectory(prefix="zh-retrieval-bench-openvino-")
        folder, calibration = Path(self._folder.name) / "model", Path(self._folder.name) / "calibration"
        folder.mkdir()
        calibration.mkdir()
        for file in (side.folder or folder).iterdir():
            (folder / file.name).symlink_to(file)
        lines = [json.dumps({"sentence": text}) for text in workload.even_texts(_CALIBRATION, seed=3)]
        (calibration / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        model = make(side, folder, {"backend": "openvino"})
        export_static_quantized_openvino_model(
            model, None, str(folder), str(calibration), "default", "train", "sentence"
        )
        file_name = {"file_name": "openvino/openvino_model_qint8_quantized.xml"}
        self._model = make(side, folder, {"backend": "openvino", "model_kwargs": file_name})


def flash(side: SideSpec) -> SentenceTransformers:
    """Return sentence-transformers at half precision with flash attention, which then computes no padding."""
    import torch

    half = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return SentenceTransformers(side, attn_implementation="flash_attention_2", dtype=half)


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
