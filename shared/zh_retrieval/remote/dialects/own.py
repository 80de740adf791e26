"""The dialect of `zh-retrieval serve`: prompts are the server's work, results come as raw float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import ConfigError, RemoteError, UnknownModelError, WrongTaskError
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Answer, ModelInfo, Side, optional_text, whole
from zh_retrieval.sparse.vector import SparseVector

if TYPE_CHECKING:
    from zh_retrieval.options import LoadOptions
    from zh_retrieval.recipes.spec import ModelSpec
    from zh_retrieval.remote.reply import Reply

_ROOT = "/v1/zh-retrieval"
_MOST_TEXTS, _MOST_BYTES = 100_000, 1_000_000_000  # of one request, whatever a server says it takes
_FROM_ONE = 1e-2  # how far a vector's length may be from 1
_SPARE = 1_000_000  # bytes: an answer of a wrong length is said to be one


class Own:
    """Talks to `zh-retrieval serve`."""

    def __init__(self, client: Client, spec: ModelSpec, options: LoadOptions) -> None:
        self._client = client
        self._spec = spec
        self._name = options.served_model_name or spec.name
        self._served = ModelInfo(spec.name)

    async def served(self, spec: ModelSpec) -> ModelInfo:
        """Return the model that the server has under this recipe.

        Raises:
            UnknownModelError: It serves others; the message lists them.
            WrongTaskError: It serves this name for the other task.
            ConfigError: It serves this name by another recipe: its vectors do not fit ours.
        """
        url = self._client.address.url
        try:
            listed = (await self._client.get(f"{_ROOT}/models"))["models"]
            found = next((model for model in listed if model["id"].lower() == self._name.lower()), None)
            if found is None:
                names = ", ".join(model["id"] for model in listed)[:400] or "none"
                raise UnknownModelError(f"{url} does not serve {self._name}. It serves: {names}.")
            task = "embed" if spec.task == "embedding" else "rerank"
            if found.get("task", task) != task:
                raise WrongTaskError(f"{url} serves {self._name} for another task than {spec.task}.")
            if found["recipe"] != recipe_hash(spec):
                raise ConfigError(
                    f"{url} serves {self._name} by another recipe (prompts, pooling, scoring) than this version has: "
                    "its results would not fit yours. Use the same version, and the same registered recipe, on both."
                )
            self._served = _described(found)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, (UnknownModelError, WrongTaskError, ConfigError)):
                raise
            raise RemoteError(
                f"{url} does not answer as zh-retrieval serve does ({str(error)[:200]!r}). For another server say "
                "dialect='tei' or 'openai'."
            ) from None
        return self._served

    async def settle(self) -> None:
        """Do nothing: this server cuts and refuses as it is asked, and its scores are raw."""

    async def embed(self, texts: Sequence[str], side: Side, instruction: str | None) -> Answer:
        """Return the vectors of texts; the server prompts them."""
        body = {"texts": list(texts), "side": side, "instruction": instruction}
        return await self._rows("embed", body, len(texts), self._served.dimension)

    async def embed_sparse(
        self, texts: Sequence[str], side: Side, *, dense: bool
    ) -> tuple[np.ndarray | None, list[SparseVector], int]:
        """Return dense vectors if they are wanted, the sparse ones, and how many texts were cut."""
        count, width = len(texts), (self._served.dimension or 0) if dense else 0
        longest = self._served.max_length or self._spec.max_length
        most = min(count * (4 * width + 4 + 8 * longest) + _SPARE, _MOST_BYTES)
        body = {"model": self._served.id, "texts": list(texts), "side": side, "dense": dense}
        reply = await self._client.post(f"{_ROOT}/embed_sparse", body, pack=True, most=most)
        self._check_weights(reply, self._served.sparse)
        split = 4 * count * width
        rows = self._vectors(reply.content[:split], count, width) if dense else None
        return rows, self._sparse(reply.content[split:], count, longest), self._cut(reply, count)

    def _sparse(self, content: bytes, count: int, longest: int) -> list[SparseVector]:
        """Return the sparse vectors of sizes, indices and values."""
        sizes = np.frombuffer(content[: 4 * count], dtype="<u4").astype(np.int64)
        total = int(sizes.sum()) if len(sizes) == count and (sizes <= longest).all() else -1
        if len(content) != 4 * count + 8 * total:
            raise RemoteError(
                f"{self._client.address.url} gave {len(content)} bytes for {count} sparse vectors, which does not fit "
                "their sizes. Is something between us that changes answers?"
            )
        indices = np.frombuffer(content, dtype="<u4", count=total, offset=4 * count).astype(np.uint32)
        values = np.frombuffer(content, dtype="<f4", count=total, offset=4 * (count + total)).astype(np.float32)
        ends = np.cumsum(sizes)
        parts = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
        rising = all((np.diff(indices[part].astype(np.int64)) > 0).all() for part in parts)
        if not rising or not (np.isfinite(values) & (values > 0)).all():
            raise RemoteError(f"{self._client.address.url} gave sparse vectors with indices or values that are none.")
        return [SparseVector(indices[part], values[part]) for part in parts]

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
        most = 4 * count * (width or 1) + _SPARE
        reply = await self._client.post(f"{_ROOT}/{what}", {"model": self._served.id, **given}, pack=True, most=most)
        self._check_weights(reply, self._served.weights)
        return Answer(self._array(reply, count, width), self._cut(reply, count))

    def _cut(self, reply: Reply, count: int) -> int:
        said = reply.headers.get("x-truncated", "0")
        if not (said.isascii() and said.isdecimal() and len(said) < 10 and int(said) <= count):
            raise RemoteError(f"{self._client.address.url} says that {said[:40]!r} of {count} inputs were cut.")
        return int(said)

    def _check_weights(self, reply: Reply, before: str | None) -> None:
        """Vectors of other weights must not get into the same index."""
        now = reply.headers.get("x-weights")
        if before and now and now != before:
            raise RemoteError(
                f"{self._client.address.url} has other weights of {self._spec.name} than before, or other options. "
                "Results made before and after do not belong together: load the model again, and index anew."
            )

    def _array(self, reply: Reply, count: int, width: int | None) -> np.ndarray:
        return self._vectors(reply.content, count, width)

    def _vectors(self, content: bytes, count: int, width: int | None) -> np.ndarray:
        if len(content) != 4 * count * (width or 1):
            raise RemoteError(
                f"{self._client.address.url} gave {len(content)} bytes for {count} results"
                f"{f' of {width} numbers' if width else ''}. Is something between us that changes answers?"
            )
        rows = np.frombuffer(content, dtype="<f4").astype(np.float32)
        if not np.isfinite(rows).all():
            raise RemoteError(f"{self._client.address.url} gave NaN or Inf.")
        if not width:
            return rows
        vectors = rows.reshape(count, width)
        if (np.abs(np.linalg.norm(vectors, axis=1) - 1) > _FROM_ONE).any():
            raise RemoteError(f"{self._client.address.url} gave vectors that have not length 1.")
        return vectors


def _described(found: dict[str, Any]) -> ModelInfo:
    limits = found["limits"]
    return ModelInfo(
        id=str(found["id"]),
        max_length=whole(found["max_length"]),
        dimension=None if found["dimension"] is None else whole(found["dimension"]),
        weights=optional_text(found["weights"]),
        dtype=optional_text(found["dtype"]),
        quantization=optional_text(found["quantization"]),
        fingerprint=optional_text(found.get("fingerprint")),  # older servers have none
        sparse=optional_text(found.get("sparse")),
        max_texts=min(_MOST_TEXTS, whole(limits["max_texts"])),
        max_bytes=min(_MOST_BYTES, whole(limits["max_body_bytes"])),
    )
