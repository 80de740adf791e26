"""The dialect of OpenAI's embeddings and Jina's rerank, which vLLM, Xinference, Infinity and others speak.

The recipe's prompts are put before texts here: these servers know none. Vectors are normalised here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, RemoteError, UnknownModelError
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Served, Side, prompted, vectors
from zh_retrieval.remote.dialects.tei import by_query, fill

if TYPE_CHECKING:
    from zh_retrieval.recipes.spec import ModelSpec

_TEXTS = 256  # of one request; OpenAI itself takes 2048
_SURE = 1e-7  # a probability is taken to be this far from 0 and 1 at least: beyond, float32 has lost the logit


class OpenAI:
    """Talks to a server of OpenAI's dialect."""

    def __init__(self, client: Client, spec: ModelSpec) -> None:
        self._client = client
        self._spec = spec
        self._id = spec.name

    async def served(self, spec: ModelSpec) -> Served:
        """Return the model that the server lists under one of the recipe's names, or its only one.

        Raises:
            ConfigError: These servers cannot compute this model's scores.
            UnknownModelError: It serves others; the message lists them.
        """
        url = self._client.address.url
        if spec.scoring not in (None, "classification"):
            raise ConfigError(f"This dialect does not score by {spec.scoring}, as {spec.name} does.")
        try:
            ids = [str(model["id"]) for model in (await self._client.get("/v1/models"))["data"]]
        except (KeyError, TypeError) as error:
            raise RemoteError(f"{url}/v1/models is no list of models ({error!r}).") from None
        known = [name for name in ids if _is(name, spec)]
        if not known and len(ids) != 1:
            raise UnknownModelError(f"{url} does not serve {spec.name}. It serves: {', '.join(ids) or 'none'}.")
        self._id = (known or ids)[0]
        return Served(self._id, dimension=spec.dimension, max_texts=_TEXTS)

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts."""
        inputs = prompted(self._spec, texts, side, instruction)
        body = {"model": self._id, "input": inputs, "encoding_format": "base64"}
        found = await self._client.post_json("/v1/embeddings", body)
        try:
            data = sorted(found["data"], key=lambda item: int(item["index"]))
            rows = [_numbers(item["embedding"]) for item in data]
            places = [int(item["index"]) for item in data]
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise RemoteError(f"The server's answer holds no vectors ({error!r}).") from None
        if places != list(range(len(texts))):
            raise RemoteError(f"The server gave {len(places)} vectors for {len(texts)} texts.")
        return Answer(vectors(rows, len(texts)))

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return logits: what the server gives as probabilities is turned back."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for query, places in by_query(pairs).items():
            body = {
                "model": self._id,
                "query": self._spec.format_query(query, instruction),
                "documents": [self._spec.format_document(pairs[place][1]) for place in places],
            }
            found = await self._client.post_json("/v1/rerank", body)
            results = found.get("results") if isinstance(found, dict) else None
            fill(scores, places, results, "relevance_score")
        return Answer(_logits(scores))

    async def chunks(self, document: str, spans: Sequence[Span]) -> Answer:
        """Raise ConfigError: the dialect has whole texts only."""
        raise ConfigError("This dialect has no late chunking. Use zh-retrieval serve.")


def _is(name: str, spec: ModelSpec) -> bool:
    try:
        return get_spec(name).name == spec.name
    except UnknownModelError:
        return name.rsplit("/", maxsplit=1)[-1].lower() == spec.name.lower()


def _numbers(given: Any) -> Any:
    """Return a vector that was asked for in base64; some servers give numbers all the same."""
    return np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4") if isinstance(given, str) else given


def _logits(scores: np.ndarray) -> np.ndarray:
    """Return probabilities as logits; scores that leave 0..1 are logits already."""
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        return scores
    sure = np.clip(scores.astype(np.float64), _SURE, 1 - _SURE)
    logits: np.ndarray = np.log(sure / (1 - sure)).astype(np.float32)
    return logits
