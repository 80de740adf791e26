"""The dialect of Hugging Face's Text Embeddings Inference: the recipe's prompts are put before texts here.

Routes and answers: text-embeddings-inference 1.8 and 1.9, router/src/http/types.rs. Before 1.9 it says 413 where it now
says 422; both come out as InputError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, RemoteError, UnknownModelError
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Served, Side, prompted, vectors

if TYPE_CHECKING:
    from zh_retrieval.recipes.spec import ModelSpec


class Tei:
    """Talks to a TEI server, which has one model."""

    def __init__(self, client: Client, spec: ModelSpec) -> None:
        self._client = client
        self._spec = spec

    async def served(self, spec: ModelSpec) -> Served:
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
                raise UnknownModelError(f"{url} serves a model of type {kind!r}, {name}: not {spec.name}.")
            _check_name(url, name, spec)
            return Served(
                name,
                max_length=int(info["max_input_length"]),
                dimension=spec.dimension,
                weights=info.get("model_sha"),
                dtype=info.get("model_dtype"),
                max_texts=max(1, int(info["max_client_batch_size"])),
            )
        except (KeyError, TypeError, StopIteration, ValueError) as error:
            if isinstance(error, UnknownModelError):
                raise
            raise RemoteError(f"{url}/info is not what TEI says there ({error!r}).") from None

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts."""
        inputs = prompted(self._spec, texts, side, instruction)
        found = await self._client.post_json("/embed", {"inputs": inputs, "truncate": True, "normalize": True})
        return Answer(vectors(found, len(texts)))

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return raw logits: one request for each query."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for query, places in by_query(pairs).items():
            body = {
                "query": self._spec.format_query(query, instruction),
                "texts": [self._spec.format_document(pairs[place][1]) for place in places],
                "raw_scores": True,
                "truncate": True,
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


def fill(scores: np.ndarray, places: list[int], found: Any, name: str) -> None:
    """Write scores that come with indices, in any order, to their places.

    Raises:
        RemoteError: One is missing, twice there, or no finite number.
    """
    try:
        by_index = {int(item["index"]): float(item[name]) for item in found}
        numbers = [by_index[index] for index in range(len(places))]
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(f"The server's scores are not one for each document ({error!r}).") from None
    if len(by_index) != len(places) or not np.isfinite(numbers).all():
        raise RemoteError("The server's scores are not one finite number for each document.")
    scores[places] = numbers


def _check_name(url: str, name: str, spec: ModelSpec) -> None:
    """Refuse a model whose id is another's; a folder's name says nothing."""
    from zh_retrieval.recipes.registry import get_spec

    try:
        found = get_spec(name)
    except UnknownModelError:
        return
    if found.name != spec.name:
        raise UnknownModelError(f"{url} serves {name}, not {spec.name}.")
