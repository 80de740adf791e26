"""The models of a server: loading, finding by id, proving that they are right."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from zh_retrieval.base import Encoder, Reranker, SparseEncoder
from zh_retrieval.errors import CheckpointError, ConfigError, DownloadError
from zh_retrieval.loading import load_encoder, load_reranker, load_sparse_encoder
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.server.models.watch import Watch
from zh_retrieval.server.settings import Settings

logger = logging.getLogger(__name__)

HandleT = TypeVar("HandleT", Encoder, Reranker, SparseEncoder)

_TASKS = {"embedding": "embed", "reranking": "rerank", "sparse": "sparse"}
SUFFIXES = ("-query", "-document", "-passage")  # of an id: its side
_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_PROBE = "西湖在杭州。What is the capital of France?"
_CLOSE = 2e-2  # how far a probe may be from the first one: other batches round otherwise, wrong weights are far off
_OTHER_RESULTS = ("path", "revision", "dimensions", "max_length")  # options with which published values are no measure


class ServedModel(Generic[HandleT]):
    """One model.

    Attributes:
        name: What the server was told to call it.
        spec: Its recipe.
        options: What it was loaded with.
        handle: Computes, and cuts what is too long.
        strict: Computes with the same weights, and refuses what is too long.
        sparse: Gives sparse vectors of the same weights; None: the model has none.
        strict_sparse: As `strict`.
        sparse_weights: The fingerprint of `sparse`; "" without it.
        weights: The handle's fingerprint: 16 hex digits that are equal for equal weights, recipe and options.
        watch: Whether and how quickly it computes.
    """

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        options: Mapping[str, Any],
        handle: HandleT | None = None,
        *,
        stuck_after: float = 60.0,
    ) -> None:
        self.name = name
        self.spec = spec
        self.options = dict(options)
        self._given: HandleT | None = handle
        self.handle: HandleT
        self.strict: HandleT
        self.sparse: SparseEncoder | None = None
        self.strict_sparse: SparseEncoder | None = None
        self.sparse_weights = ""
        self.weights = ""
        self.watch = Watch(name, stuck_after)
        self._probe: np.ndarray | None = None

    def load(self) -> None:
        """Load, warm up and prove; again where the weights were lost. Blocks."""
        load: Any = load_encoder if self.spec.task == "embedding" else load_reranker
        warmup = 0.0
        if self.spec.task == "sparse" and self._given is None:  # no weights, and no option of weights
            load, self.options = load_sparse_encoder, {}
        if self._given is not None:
            self.handle = self.strict = self._given
        else:
            self.handle = load(self.spec, **self.options)
            strict = {"overflow": "error"} if self.spec.task != "sparse" else {}
            self.strict = load(self.spec, **{**self.options, **strict})
            begin = time.monotonic()
            self.handle.warmup()
            warmup = time.monotonic() - begin
        self._load_sparse()
        if not self.weights:
            self.weights = self.handle.fingerprint
        self.prove()
        self._prove_published()
        self.watch.loaded(self.handle, warmup)

    def _load_sparse(self) -> None:
        """Open the sparse side, where there is one: a share of the same weights."""
        if isinstance(self.handle, SparseEncoder):
            self.sparse = self.strict_sparse = self.handle
        elif self._given is None and self.spec.gives_sparse:
            try:
                self.sparse = load_sparse_encoder(self.spec, **self.options)
                strict = {**self.options, "overflow": "error"}
                self.strict_sparse = load_sparse_encoder(self.spec, **strict)
            except (CheckpointError, DownloadError) as error:  # an older snapshot: what was served still is
                logger.warning("%s is served without sparse vectors: %s", self.spec.name, error)

        self.sparse_weights = "" if self.sparse is None else self.sparse.fingerprint

    def prove(self) -> None:
        """Compute something small, and compare it with what came out at the start. Blocks.

        Raises:
            CheckpointError: Something else came out.
            Exception: Whatever keeps the model from computing.
        """
        found = self._compute()
        if self._probe is None:
            self._probe = found
        far = float(np.abs(found - self._probe).max()) if found.shape == self._probe.shape else float("inf")
        if not far <= _CLOSE * max(1.0, float(np.abs(self._probe).max())):  # NaN is far
            raise CheckpointError(
                f"{self.spec.name} gives other results than at the start: off by {far:.3g}. Is its memory damaged?"
            )

    def _prove_published(self) -> None:
        """Compare with what the recipe's own weights are known to give.

        Raises:
            CheckpointError: Something else came out.
        """
        if self._given is not None or any(self.options.get(name) for name in _OTHER_RESULTS):
            return
        if self.spec.task == "sparse":
            return
        from zh_retrieval.selftest import known_values

        model: Any = self.handle
        checks = known_values(model, quantized=self.options.get("quantization") is not None)
        wrong = [check for check in checks if not check.passed]
        if wrong:
            raise CheckpointError(
                f"{self.spec.name} does not compute what is known of its weights: {wrong[0].name}: {wrong[0].detail}. "
                "Fetch them again; `zh-retrieval doctor --selftest` says more."
            )

    def limit_queue(self, tokens: int) -> None:
        """Let at most so many tokens wait, where that is less than the options say."""
        most = min(max(1, tokens), self.options.get("max_queue_tokens") or tokens)
        handles: tuple[Any, ...] = (self.handle, self.strict, self.sparse, self.strict_sparse)
        for handle in handles:
            if hasattr(handle, "limit_queue"):
                handle.limit_queue(most)

    def close(self) -> None:
        """Give the weights back."""
        if self._given is None:
            for name in ("strict_sparse", "sparse", "strict", "handle"):  # one that is still being loaded has none
                handle = getattr(self, name, None)
                if handle is not None:
                    handle.close()

    def described(self) -> dict[str, Any]:
        """Return what clients of our own protocol compare with what they expect."""
        return {
            "id": self.spec.name,
            "task": _TASKS[self.spec.task],
            "recipe": recipe_hash(self.spec),
            "dimension": self.handle.dimension if isinstance(self.handle, Encoder) else None,
            "max_length": self.handle.max_length,
            "weights": self.weights,
            "dtype": str(self.handle.dtype),
            "quantization": self.options.get("quantization"),
            "fingerprint": self.weights,
            "sparse": self.sparse_weights or None,
        }

    def _compute(self) -> np.ndarray:
        if isinstance(self.handle, Encoder):
            return self.handle.encode_documents([_PROBE])
        if isinstance(self.handle, SparseEncoder):
            return self.handle.encode_documents([_PROBE])[0].values
        return self.handle.score([("杭州有什么？", _PROBE)])


def named(settings: Settings) -> Iterator[ServedModel[Any]]:
    """Yield the models, nothing loaded yet.

    Raises:
        UnknownModelError: There is no such model.
        ConfigError: A model is named twice.
    """
    options = {"max_queue_tokens": settings.max_queue_tokens, "when_full": "refuse", **settings.options}
    seen: set[str] = set()
    given_names = _given_names(settings)
    for entry in settings.models:
        name, _, folder = (entry.name, "", "") if isinstance(entry, ModelSpec) else entry.partition("=")
        spec = get_spec(entry if isinstance(entry, ModelSpec) else name)
        if spec.name in seen or spec.name in settings.handles:
            raise ConfigError(f"{spec.name} is to be served twice. Name each model once.")
        seen.add(spec.name)
        name = name.strip()
        of_model = {**options, **settings.model_options.get(name, {}), **({"path": Path(folder)} if folder else {})}
        yield ServedModel(given_names.get(name, name), spec, of_model, stuck_after=settings.stuck_after)
    for name, handle in settings.handles.items():
        given: Any = handle
        shown = given_names.get(name, name)
        yield ServedModel(shown, handle.spec, {}, given, stuck_after=settings.stuck_after)


def _given_names(settings: Settings) -> Mapping[str, str]:
    """Return what clients call each model that was given a name. Raises ConfigError where that is not clear."""
    written = [entry.name if isinstance(entry, ModelSpec) else entry.partition("=")[0] for entry in settings.models]
    known = [*(name.strip() for name in written), *settings.handles]
    for what, given in (("a name", settings.served_model_names), ("options", settings.model_options)):
        for name in given:
            if name not in known:
                raise ConfigError(f"{name[:100]!r} gets {what} and is not served. There are: {', '.join(known)}.")
    shown = [settings.served_model_names.get(name, name).lower() for name in known]
    for name, alias in settings.served_model_names.items():
        if not _NAME.fullmatch(alias) or alias.lower().endswith(SUFFIXES):
            raise ConfigError(
                f"{name} cannot be called {alias[:100]!r}: expected letters, digits and . _ : / -, and no ending of "
                f"{', '.join(SUFFIXES)}, which say the side."
            )
        if shown.count(alias.lower()) > 1:
            raise ConfigError(f"Two models are called {alias[:100]!r}. Name each differently.")
    return settings.served_model_names
