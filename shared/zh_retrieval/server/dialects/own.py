"""Our own protocol, spoken by `base_url=`: sides by name, raw float32, errors by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import InputError
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import own
from zh_retrieval.server.models.ids import Side
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.models.tokenizing import LONGEST
from zh_retrieval.server.requests.fields import Choice, Switch, Word
from zh_retrieval.server.requests.request import Request
from zh_retrieval.server.requests.texts import Pairs, Spans, Text, Texts
from zh_retrieval.server.routes.route import Route
from zh_retrieval.usage import Usage

_ROOT = "/v1/zh-retrieval"
_SIDES: dict[str, Side] = {"query": "query", "document": "document"}
_MODEL = Word("Name of a recipe.")
_INSTRUCTION = Text("Words for the model's own instruction, where it takes any.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed(Request):
    """POST /v1/zh-retrieval/embed."""

    model: Annotated[str | None, _MODEL]
    texts: Annotated[list[str], Texts("The texts.", least=0, empty=True)]
    side: Annotated[Side, Choice("What the texts are.", _SIDES)] = "document"
    instruction: Annotated[str | None, _INSTRUCTION] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSparse(Request):
    """POST /v1/zh-retrieval/embed_sparse."""

    model: Annotated[str | None, _MODEL]
    texts: Annotated[list[str], Texts("The texts.", least=0, empty=True)]
    side: Annotated[Side, Choice("What the texts are.", _SIDES)] = "document"
    dense: Annotated[bool, Switch("Whether the dense vectors of the same passes are wanted, too.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Request):
    """POST /v1/zh-retrieval/score."""

    model: Annotated[str | None, _MODEL]
    pairs: Annotated[list[Pair], Pairs("The pairs.")]
    instruction: Annotated[str | None, _INSTRUCTION] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks(Request):
    """POST /v1/zh-retrieval/chunks."""

    model: Annotated[str | None, _MODEL]
    document: Annotated[str, Text("The whole document.")]
    spans: Annotated[list[Span], Spans("Its parts, in characters.")]


async def models(incoming: Incoming) -> Response:
    """List the models, with what clients compare before they ask for results."""
    settings = incoming.running.settings
    limits = {"max_texts": settings.max_texts, "max_body_bytes": settings.max_body_bytes}
    listed = [{**served.described(), "limits": limits} for served in incoming.running.models.all]
    return Response(orjson.dumps({"version": __version__, "models": listed}), media_type="application/json")


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors."""
    asked: Embed = incoming.asked
    served, _ = incoming.running.models.encoder(asked.model)
    if asked.instruction is not None and asked.side == "document":
        raise InputError("instruction is for queries. Say side='query', or leave it out.")
    return _binary(served, *await incoming.running.embed(served, asked.texts, asked.side, asked.instruction))


async def embed_sparse(incoming: Incoming) -> Response:
    """Texts to sparse vectors, little-endian: dense float32 (N, D) if asked, sizes uint32 (N,), indices, values."""
    asked: EmbedSparse = incoming.asked
    served, _ = incoming.running.models.sparse(asked.model)
    parts: list[bytes] = []
    if asked.dense:
        (rows, found), used = await incoming.running.embed_both(served, asked.texts, asked.side)
        parts.append(np.asarray(rows, dtype="<f4").tobytes())
    else:
        found, used = await incoming.running.embed_sparse(served, asked.texts, asked.side)
    parts.append(np.array([len(vector) for vector in found], dtype="<u4").tobytes())
    parts += [vector.indices.astype("<u4").tobytes() for vector in found]
    parts += [vector.values.astype("<f4").tobytes() for vector in found]
    said = {"x-rows": str(len(found)), "x-truncated": str(used.cut), "x-weights": served.sparse_weights}
    return Response(b"".join(parts), headers=said, media_type="application/octet-stream")


async def score(incoming: Incoming) -> Response:
    """Pairs to raw scores."""
    asked: Score = incoming.asked
    served = incoming.running.models.reranker(asked.model)
    return _binary(served, *await incoming.running.score(served, asked.pairs, asked.instruction))


async def chunks(incoming: Incoming) -> Response:
    """Parts of a document to vectors, each seen in the whole of it (late chunking)."""
    asked: Chunks = incoming.asked
    served, _ = incoming.running.models.encoder(asked.model)
    if len(asked.document) > LONGEST:
        raise InputError(
            f"document has {len(asked.document)} characters, more than the {LONGEST} whose parts a server embeds. Send "
            "it in pieces."
        )
    return _binary(served, *await incoming.running.chunks(served, asked.document, asked.spans))


_EXAMPLES: dict[str, dict[str, object]] = {
    "embed": {"model": "MODEL", "side": "query", "texts": ["西湖在哪里？"]},
    "embed_sparse": {"model": "MODEL", "side": "query", "texts": ["西湖在哪里？"]},
    "score": {"model": "RERANKER", "pairs": [["西湖在哪里？", "西湖在杭州。"]]},
    "chunks": {"model": "MODEL", "document": "西湖在杭州。它很美。", "spans": [[0, 6], [6, 10]]},
}
ROUTES = (
    Route("GET", f"{_ROOT}/models", models, own),
    Route("POST", f"{_ROOT}/embed", embed, own, Embed, _EXAMPLES["embed"]),
    Route("POST", f"{_ROOT}/embed_sparse", embed_sparse, own, EmbedSparse, _EXAMPLES["embed_sparse"]),
    Route("POST", f"{_ROOT}/score", score, own, Score, _EXAMPLES["score"]),
    Route("POST", f"{_ROOT}/chunks", chunks, own, Chunks, _EXAMPLES["chunks"]),
)


def _binary(served: ServedModel[Any], rows: np.ndarray, used: Usage) -> Response:
    headers = {
        "x-rows": str(len(rows)),
        "x-dimension": str(rows.shape[1] if rows.ndim == 2 else 1),
        "x-truncated": str(used.cut),
        "x-weights": served.weights,
    }
    return Response(rows.tobytes(), headers=headers, media_type="application/octet-stream")
