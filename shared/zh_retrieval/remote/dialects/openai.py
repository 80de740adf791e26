"""The dialect of OpenAI's embeddings and Jina's rerank, which vLLM, Xinference, Infinity and others speak.

The recipe's prompts are put before texts here: these servers know none. Vectors are normalised here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, InputError, RemoteError, UnknownModelError
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, ModelInfo, Side, prompted, vectors, whole
from zh_retrieval.remote.dialects.naming import means
from zh_retrieval.remote.dialects.scale import PROBES, Scale, logits, scale_of
from zh_retrieval.remote.dialects.tei import by_query, fill

if TYPE_CHECKING:
    from zh_retrieval.options import LoadOptions
    from zh_retrieval.recipes.spec import ModelSpec

_TEXTS = 256  # of one request; OpenAI itself takes 2048
_SPECIAL = 16  # tokens that a model puts around a text, at most
_NAMES = ("id", "root", "model_name")  # of a listed model: vLLM's root and Xinference's model_name know what it is


class OpenAI:
    """Talks to a server of OpenAI's dialect."""

    def __init__(self, client: Client, spec: ModelSpec, options: LoadOptions) -> None:
        self._client = client
        self._spec = spec
        self._id = options.served_model_name
        self._truncate = options.overflow != "error"
        self._length = spec.max_length
        self._scale: Scale | None = None if options.score_scale == "auto" else options.score_scale

    async def served(self, spec: ModelSpec) -> ModelInfo:
        """Return the model that the server lists under one of the recipe's names, or under `served_model_name`.

        Raises:
            ConfigError: These servers cannot compute this model's scores.
            UnknownModelError: It serves others; the message lists them.
        """
        url = self._client.address.url
        if spec.scoring not in (None, "classification"):
            raise ConfigError(f"This dialect does not score by {spec.scoring}, as {spec.name} does.")
        listed = await self._client.get("/v1/models")
        try:
            found = self._found(listed["data"])
            said = {} if found is None else found
            limit = None if said.get("max_model_len") is None else whole(said["max_model_len"])
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise RemoteError(f"{url}/v1/models is no list of models ({str(error)[:200]!r}).") from None
        if found is None:
            ids = [str(model["id"])[:200] for model in listed["data"][:10]]
            raise UnknownModelError(
                f"{url} does not serve {self._id or spec.name}. It serves: {', '.join(ids) or 'none'}. "
                "If one of them is a copy of it under another name, say served_model_name=."
            )
        self._id = str(found["id"])
        self._length = spec.max_length if limit is None else min(limit, spec.max_length)
        return ModelInfo(self._id, max_length=self._length, dimension=spec.dimension, max_texts=_TEXTS)

    def _found(self, listed: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        for model in listed:
            names = [model["id"], *(model[name] for name in _NAMES[1:] if isinstance(model.get(name), str))]
            if self._id is not None:
                if names[0] == self._id:
                    return model
            elif any(means(str(name), self._spec) for name in names):
                return model
        return None

    async def settle(self) -> None:
        """Find out what scores are, and whether the server refuses what is too long, if that is wanted.

        Raises:
            ConfigError: overflow="error", and the server cuts without a word.
        """
        if self._spec.task == "reranking" and self._scale is None:
            pairs = [(query, document) for query, documents in PROBES for document in documents]
            self._scale = scale_of(await self._given(pairs, None))
        if not self._truncate:
            await self._refuses()

    async def _refuses(self) -> None:
        long = "茶 " * (self._length + 1)  # a token each at least
        try:
            if self._spec.task == "embedding":
                await self.embed([long], "document", None)
            else:
                await self._given([("茶", long)], None)
        except InputError:
            return
        raise ConfigError(
            f"overflow='error' cannot be kept: {self._client.address.url} takes texts of more than {self._length} "
            "tokens and does not say that it cuts them. Use overflow='truncate', or zh-retrieval serve."
        )

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts."""
        inputs = prompted(self._spec, texts, side, instruction)
        body = {"model": self._id, "input": inputs, "encoding_format": "base64", **self._cut(inputs)}
        found = await self._client.post_json("/v1/embeddings", body)
        try:
            data = sorted(found["data"], key=lambda item: whole(item["index"], 0))
            rows = [_numbers(item["embedding"]) for item in data]
            places = [whole(item["index"], 0) for item in data]
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise RemoteError(f"The server's answer holds no vectors ({str(error)[:200]!r}).") from None
        if places != list(range(len(texts))):
            raise RemoteError(f"The server gave {len(places)} vectors for {len(texts)} texts.")
        return Answer(vectors(rows, len(texts)))

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return logits: what the server gives as probabilities is turned back."""
        scores = await self._given(pairs, instruction)
        return Answer(logits(scores, self._scale or "probability", self._client.address.url))

    async def _given(self, pairs: Sequence[Pair], instruction: str | None) -> np.ndarray:
        scores = np.empty(len(pairs), dtype=np.float32)
        for query, places in by_query(pairs).items():
            asked = self._spec.format_query(query, instruction)
            documents = [self._spec.format_document(pairs[place][1]) for place in places]
            body = {"model": self._id, "query": asked, "documents": documents, **self._cut(documents, asked)}
            found = await self._client.post_json("/v1/rerank", body)
            results = found.get("results") if isinstance(found, dict) else None
            fill(scores, places, results, "relevance_score")
        return scores

    def _cut(self, texts: Sequence[str], query: str = "") -> dict[str, int]:
        """Return vLLM's word for cutting, where a text may be too long; other servers cut by themselves.

        A byte is a token at most, and special tokens are some more.
        """
        room = self._length - _SPECIAL - len(query.encode())
        long = self._truncate and any(len(text) > room or len(text.encode()) > room for text in texts)
        return {"truncate_prompt_tokens": self._length} if long else {}

    async def chunks(self, document: str, spans: Sequence[Span]) -> Answer:
        """Raise ConfigError: the dialect has whole texts only."""
        raise ConfigError("This dialect has no late chunking. Use zh-retrieval serve.")


def _numbers(given: Any) -> Any:
    """Return a vector that was asked for in base64; some servers give numbers all the same."""
    return np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4") if isinstance(given, str) else given
