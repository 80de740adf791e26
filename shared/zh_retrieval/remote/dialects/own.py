"""The dialect of `zh-retrieval serve`: prompts are the server's work, results come as raw float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, RemoteError, UnknownModelError
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, Served, Side

if TYPE_CHECKING:
    import httpx

    from zh_retrieval.recipes.spec import ModelSpec

_ROOT = "/v1/zh-retrieval"


class Own:
    """Talks to `zh-retrieval serve`."""

    def __init__(self, client: Client, spec: ModelSpec) -> None:
        self._client = client
        self._spec = spec
        self._served = Served(spec.name)

    async def served(self, spec: ModelSpec) -> Served:
        """Return the model that the server has under this recipe.

        Raises:
            UnknownModelError: It serves others; the message lists them.
            ConfigError: It serves this name by another recipe: its vectors do not fit ours.
        """
        url = self._client.address.url
        try:
            listed = (await self._client.get(f"{_ROOT}/models"))["models"]
            found = next((model for model in listed if model["id"].lower() == spec.name.lower()), None)
            if found is None:
                names = ", ".join(model["id"] for model in listed) or "none"
                raise UnknownModelError(f"{url} does not serve {spec.name}. It serves: {names}.")
            if found["recipe"] != recipe_hash(spec):
                raise ConfigError(
                    f"{url} serves {spec.name} by another recipe (prompts, pooling, scoring) than this version has: "
                    "its results would not fit yours. Use the same version, and the same registered recipe, on both."
                )
            self._served = _described(found)
        except (KeyError, TypeError, AttributeError) as error:
            raise RemoteError(
                f"{url} does not answer as zh-retrieval serve does ({error!r}). For another server say "
                "dialect='tei' or 'openai'."
            ) from None
        return self._served

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts; the server prompts them."""
        body = {"texts": list(texts), "side": side, "instruction": instruction}
        return await self._rows("embed", body, len(texts), self._served.dimension)

    async def score(self, pairs: Sequence[Pair], instruction: str | None) -> Answer:
        """Return raw scores."""
        body = {"pairs": [list(pair) for pair in pairs], "instruction": instruction}
        return await self._rows("score", body, len(pairs), None)

    async def chunks(self, document: str, spans: Sequence[Span]) -> Answer:
        """Return vectors of parts of a document, seen in the whole of it."""
        body = {"document": document, "spans": [list(span) for span in spans]}
        return await self._rows("chunks", body, len(spans), self._served.dimension)

    async def _rows(self, what: str, body: dict[str, Any], count: int, width: int | None) -> Answer:
        given = {name: value for name, value in body.items() if value is not None}
        response = await self._client.post(f"{_ROOT}/{what}", {"model": self._served.id, **given}, pack=True)
        self._check_weights(response)
        return Answer(self._array(response, count, width), int(response.headers.get("x-truncated", 0)))

    def _check_weights(self, response: httpx.Response) -> None:
        """Vectors of other weights must not get into the same index."""
        now = response.headers.get("x-weights")
        if self._served.weights and now and now != self._served.weights:
            raise RemoteError(
                f"{self._client.address.url} has other weights of {self._spec.name} than before. Results made before "
                "and after do not belong together: load the model again, and index anew."
            )

    def _array(self, response: httpx.Response, count: int, width: int | None) -> np.ndarray:
        content = response.content
        if len(content) != 4 * count * (width or 1):
            raise RemoteError(
                f"{self._client.address.url} gave {len(content)} bytes for {count} results"
                f"{f' of {width} numbers' if width else ''}. Is something between us that changes answers?"
            )
        rows = np.frombuffer(content, dtype="<f4").astype(np.float32)
        if not np.isfinite(rows).all():
            raise RemoteError(f"{self._client.address.url} gave NaN or Inf.")
        return rows.reshape(count, width) if width else rows


def _described(found: dict[str, Any]) -> Served:
    limits = found["limits"]
    return Served(
        id=str(found["id"]),
        max_length=int(found["max_length"]),
        dimension=None if found["dimension"] is None else int(found["dimension"]),
        weights=found["weights"],
        dtype=found["dtype"],
        quantization=found["quantization"],
        max_texts=max(1, int(limits["max_texts"])),
        max_bytes=max(1, int(limits["max_body_bytes"])),
    )
