"""The dialect of Hugging Face's Text Embeddings Inference: the recipe's prompts are put before texts here.

Routes and answers: text-embeddings-inference 1.8 and 1.9, router/src/http/types.rs. Before 1.9 it says 413 where it now
says 422; both come out as InputError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, RemoteError, UnknownModelError
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, ModelInfo, Side, optional_text, prompted, vectors, whole
from zh_retrieval.remote.dialects.naming import means

if TYPE_CHECKING:
    from zh_retrieval.options import LoadOptions
    from zh_retrieval.recipes.spec import ModelSpec

logger = logging.getLogger(__name__)


class Tei:
    """Talks to a TEI server, which has one model."""

    def __init__(self, client: Client, spec: ModelSpec, options: LoadOptions) -> None:
        self._client = client
        self._spec = spec
        self._name = options.served_model_name
        self._truncate = options.overflow != "error"

    async def served(self, spec: ModelSpec) -> ModelInfo:
        """Return the server's model.

        Raises:
            ConfigError: TEI cannot compute this model's scores.
            UnknownModelError: It has a model of another name or task.
        """
        url = self._client.address.url
        if spec.scoring not in (None, "classification"):
            raise ConfigError(f"TEI does not score by {spec.scoring}, as {spec.name} does. Use zh-retrieval serve.")
        info = await self._client.get("/info")
        try:
            kind, name = next(iter(info["model_type"])), str(info["model_id"])
            if kind != ("embedding" if spec.task == "embedding" else "reranker"):
                raise UnknownModelError(f"{url} serves a model of type {kind[:40]!r}, {name[:200]}: not {spec.name}.")
            self._check_name(url, name)
            return ModelInfo(
                name,
                max_length=whole(info["max_input_length"]),
                dimension=spec.dimension,
                weights=optional_text(info.get("model_sha")),
                dtype=optional_text(info.get("model_dtype")),
                max_texts=whole(info["max_client_batch_size"]),
            )
        except (KeyError, TypeError, StopIteration, ValueError, OverflowError) as error:
            if isinstance(error, UnknownModelError):
                raise
            raise RemoteError(f"{url}/info is not what TEI says there ({str(error)[:200]!r}).") from None

    def _check_name(self, url: str, name: str) -> None:
        if self._name is not None:
            if name != self._name:
                raise UnknownModelError(f"{url} serves {name[:200]!r}, not served_model_name={self._name!r}.")
            return
        ours = means(name, self._spec)
        if ours is None:
            logger.warning(
                "%s serves the folder %r, which does not say whether it is %s. If it is, say served_model_name=%r.",
                url, name[:200], self._spec.name, name[:200],
            )  # fmt: skip
        elif not ours:
            raise UnknownModelError(
                f"{url} serves {name[:200]}, not {self._spec.name}. If that is a copy of it, say "
                f"served_model_name={name[:200]!r}."
            )

    async def settle(self) -> None:
        """Do nothing: TEI cuts and refuses as it is asked, and gives raw scores where they are asked for."""

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts."""
        inputs = prompted(self._spec, texts, side, instruction)
        body = {"inputs": inputs, "truncate": self._truncate, "normalize": True}
        return Answer(vectors(await self._client.post_json("/embed", body), len(texts)))

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return raw logits: one request for each query."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for query, places in by_query(pairs).items():
            body = {
                "query": self._spec.format_query(query, instruction),
                "texts": [self._spec.format_document(pairs[place][1]) for place in places],
                "raw_scores": True,
                "truncate": self._truncate,
            }
            fill(scores, places, await self._client.post_json("/rerank", body), "score")
        return Answer(scores)

    async def chunks(self, document: str, spans: Sequence[Span]) -> Answer:
        """Raise ConfigError: TEI pools whole texts."""
        raise ConfigError("TEI has no late chunking. Use zh-retrieval serve.")


def by_query(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Return the places of each query's pairs."""
    places: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(place)
    return places


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{given!r} is no number")
    return float(given)


def fill(scores: np.ndarray, places: list[int], entries: Any, name: str) -> None:
    """Write scores that come with indices, in any order, to their places.

    Raises:
        RemoteError: One is missing, twice there, or no finite number.
    """
    try:
        by_index = {whole(item["index"], 0): _number(item[name]) for item in entries}
        numbers = [by_index[index] for index in range(len(places))]
        known = len(entries) == len(places)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RemoteError(f"The server's scores are not one for each document ({str(error)[:200]!r}).") from None
    with np.errstate(over="ignore"):
        rows = np.asarray(numbers, dtype=np.float64).astype(np.float32)
    if not known or not np.isfinite(rows).all():
        raise RemoteError("The server's scores are not one finite number for each document.")
    scores[places] = rows
