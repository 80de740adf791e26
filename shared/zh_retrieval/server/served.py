"""The models of a server: loading, finding by id, proving that they are right."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.loading import load_encoder, load_reranker
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.server.settings import Settings

logger = logging.getLogger(__name__)

HandleT = TypeVar("HandleT", Encoder, Reranker)

_PROBE = "西湖在杭州。What is the capital of France?"
_CLOSE = 2e-2  # how far a probe may be from the first one: other batches round otherwise, wrong weights are far off
_SAMPLES, _SAMPLE = 16, 4096  # bytes of a weight file that tell it apart


class Served(Generic[HandleT]):
    """One model.

    Attributes:
        name: What the server was told to call it.
        spec: Its recipe.
        options: What it was loaded with.
        handle: Computes, and cuts what is too long.
        strict: Computes with the same weights, and refuses what is too long.
        weights: 16 hex digits that are equal for equal weights.
    """

    def __init__(self, name: str, spec: ModelSpec, options: Mapping[str, Any], handle: HandleT | None = None) -> None:
        self.name = name
        self.spec = spec
        self.options = dict(options)
        self._given: HandleT | None = handle
        self.handle: HandleT
        self.strict: HandleT
        self.weights = ""
        self._probe: np.ndarray | None = None

    def load(self) -> None:
        """Load, warm up and prove; again where the weights were lost. Blocks."""
        load: Any = load_encoder if self.spec.task == "embedding" else load_reranker
        if self._given is not None:
            self.handle = self.strict = self._given
        else:
            self.handle = load(self.spec, **self.options)
            self.strict = load(self.spec, **{**self.options, "overflow": "error"})
            self.handle.warmup()
        if not self.weights:
            self.weights = _weights_hash(self.spec, getattr(self.handle, "folder", None))
        self.prove()

    def prove(self) -> None:
        """Compute something small, and compare it with what came out at the start. Blocks.

        Raises:
            CheckpointError: Something else came out.
            Exception: Whatever keeps the model from computing.
        """
        found = self._compute()
        if self._probe is None:
            self._probe = found
        far = float(np.abs(found - self._probe).max())
        if not far <= _CLOSE * max(1.0, float(np.abs(self._probe).max())):  # NaN is far
            raise CheckpointError(
                f"{self.spec.name} gives other results than at the start: off by {far:.3g}. Is its memory damaged?"
            )

    def close(self) -> None:
        """Give the weights back."""
        if self._given is None and hasattr(self, "handle"):
            self.strict.close()
            self.handle.close()

    def described(self) -> dict[str, Any]:
        """Return what clients of our own protocol compare with what they expect."""
        return {
            "id": self.spec.name,
            "task": "embed" if self.spec.task == "embedding" else "rerank",
            "recipe": recipe_hash(self.spec),
            "dimension": self.handle.dimension if isinstance(self.handle, Encoder) else None,
            "max_length": self.handle.max_length,
            "weights": self.weights,
            "dtype": str(self.handle.dtype).removeprefix("torch."),
            "quantization": self.options.get("quantization"),
        }

    def _compute(self) -> np.ndarray:
        if isinstance(self.handle, Encoder):
            return self.handle.encode_documents([_PROBE])
        return self.handle.score([("杭州有什么？", _PROBE)])


def named(settings: Settings) -> Iterator[Served[Any]]:
    """Yield the models, nothing loaded yet.

    Raises:
        UnknownModelError: There is no such model.
        ConfigError: A model is named twice.
    """
    options = {"max_queue_tokens": settings.max_queue_tokens, "when_full": "refuse", **settings.options}
    seen: set[str] = set()
    for entry in settings.models:
        name, _, folder = (entry.name, "", "") if isinstance(entry, ModelSpec) else entry.partition("=")
        spec = get_spec(entry if isinstance(entry, ModelSpec) else name)
        if spec.name in seen or spec.name in settings.handles:
            raise ConfigError(f"{spec.name} is to be served twice. Name each model once.")
        seen.add(spec.name)
        yield Served(name.strip(), spec, {**options, "path": Path(folder)} if folder else options)
    for name, handle in settings.handles.items():
        given: Any = handle
        yield Served(name, handle.spec, {}, given)


def _weights_hash(spec: ModelSpec, folder: Path | None) -> str:
    """Hash names, sizes and samples of a folder's files: copies on two machines are equal, a retrained model is not."""
    digest = hashlib.sha256(b"" if folder else recipe_hash(spec).encode())
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder else []
    for file in files:
        name = file.relative_to(folder or file).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or file.suffix in (".md", ".lock"):
            continue
        size = file.stat().st_size
        digest.update(f"{name}:{size}\n".encode())
        with file.open("rb") as stream:
            for part in range(_SAMPLES):
                stream.seek(max(0, (size - _SAMPLE) * part // (_SAMPLES - 1)))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]
