"""Our models as mteb takes them: `mteb.evaluate(MtebEncoder(encoder), tasks)`.

mteb joins title and text itself, with a space, and picks the batches; the recipe's prompts are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zh_retrieval.base import Encoder, Model, Reranker
from zh_retrieval.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np

Batches = Iterable[Mapping[str, Sequence[str]]]
"""mteb's data loader: batches with a list of texts under "text"."""


class MtebEncoder:
    """An encoder behind mteb's `EncoderProtocol`."""

    def __init__(self, encoder: Encoder, *, instruction: str | None = None) -> None:
        """Take an open encoder.

        Args:
            encoder: From `load_encoder`.
            instruction: Replaces the model's own on every task; "" leaves it out.

        Raises:
            MissingExtraError: mteb is not installed.
        """
        self._encoder = encoder
        self._instruction = instruction
        self.mteb_model_meta = _meta(encoder, embed_dim=encoder.dimension, model_type=["dense"])

    def encode(self, inputs: Batches, *, prompt_type: Any = None, **_: Any) -> np.ndarray:
        """Return float32 (N, D) for all batches in order; as queries where mteb says so, else as documents.

        Tasks without two sides (classification, similarity of texts) say neither.
        """
        texts = _texts(inputs)
        if getattr(prompt_type, "value", prompt_type) == "query":
            return self._encoder.encode_queries(texts, instruction=self._instruction)
        return self._encoder.encode_documents(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of every pair as a tensor (N, M)."""
        from mteb.similarity_functions import cos_sim  # pyright: ignore[reportMissingImports]

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of row i and row i as a tensor (N,)."""
        from mteb.similarity_functions import pairwise_cos_sim  # pyright: ignore[reportMissingImports]

        return pairwise_cos_sim(embeddings1, embeddings2)


class MtebCrossEncoder:
    """A reranker behind mteb's `CrossEncoderProtocol`."""

    def __init__(self, reranker: Reranker, *, instruction: str | None = None) -> None:
        """Take an open reranker, from `load_reranker`; the rest as `MtebEncoder`."""
        self._reranker = reranker
        self._instruction = instruction
        self.mteb_model_meta = _meta(reranker, embed_dim=None, model_type=["cross-encoder"])

    def predict(self, inputs1: Batches, inputs2: Batches, **_: Any) -> np.ndarray:
        """Return float32 (N,), the raw score of each query of `inputs1` with its document of `inputs2`."""
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        return self._reranker.score(pairs, instruction=self._instruction)


def _texts(batches: Batches) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _meta(model: Model, **facts: Any) -> Any:
    try:
        from mteb.models.model_meta import ModelMeta, ScoringFunction  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("mteb is not installed. Run: pip install mteb") from None
    return ModelMeta.create_empty(
        overwrites={
            "name": f"zh-retrieval/{model.spec.name}", "max_tokens": model.max_length,
            "similarity_fn_name": ScoringFunction.COSINE, "framework": [], **facts,
        }
    )  # fmt: skip
