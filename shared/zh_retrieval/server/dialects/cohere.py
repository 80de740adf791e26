"""Cohere's embeddings, versions 1 and 2; its reranking is in `rerank.py`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated, ClassVar

import orjson
from starlette.responses import Response

from zh_retrieval.server.dialects.embedding import Embedding, headers, vectors, vectors_as_json
from zh_retrieval.server.dialects.lengths import check_cut_to
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import rerank
from zh_retrieval.server.requests.fields import Count, Kind, Only
from zh_retrieval.server.requests.texts import Texts
from zh_retrieval.server.routes.route import Route

_ONLY_TEXTS = Only("only texts are embedded; send them as texts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed(Embedding):
    """POST /v2/embed."""

    texts: Annotated[list[str], Texts("The texts.")]
    max_tokens: Annotated[int | None, Count("Tokens to cut texts to: not fewer than the model takes.", least=1)] = None
    embedding_types: Annotated[list[str] | None, Only("vectors are float32", ["float"])] = None

    others: ClassVar[dict[str, Kind]] = {**Embedding.others, "images": _ONLY_TEXTS, "inputs": _ONLY_TEXTS}


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors, as Cohere gives them: `embeddings.float`; `input_type` is the side."""
    return await _embedded(incoming, "2", by_type=True)


async def embed_v1(incoming: Incoming) -> Response:
    """Texts to vectors, as Cohere's first version gives them: a list, or by type where `embedding_types` is given."""
    return await _embedded(incoming, "1", by_type=incoming.asked.embedding_types is not None)


async def _embedded(incoming: Incoming, version: str, *, by_type: bool) -> Response:
    asked: Embed = incoming.asked
    served, of_id = incoming.running.models.encoder(asked.model)
    check_cut_to(served, "max_tokens", asked.max_tokens)
    rows, side, used = await vectors(incoming, served, asked, of_id, asked.texts, "texts")
    kind, form = ("by_type", b'{"float":[%s]}') if by_type else ("floats", b"[%s]")
    head = {"id": str(uuid.uuid4()), "response_type": f"embeddings_{kind}", "texts": asked.texts}
    billed = {"input_tokens": used.tokens}
    tail = {"meta": {"api_version": {"version": version, "is_experimental": False}, "billed_units": billed}}
    embeddings = form % b",".join(await vectors_as_json(rows))
    content = orjson.dumps(head)[:-1] + b',"embeddings":' + embeddings + b"," + orjson.dumps(tail)[1:]
    return Response(content, 200, headers(served, side, used), "application/json")


_EXAMPLE = {"model": "MODEL", "texts": ["西湖在杭州。"], "input_type": "search_document", "embedding_types": ["float"]}
ROUTES = (
    Route("POST", "/v2/embed", embed, rerank, Embed, _EXAMPLE),
    Route("POST", "/v1/embed", embed_v1, rerank, Embed, {"model": "MODEL", "texts": ["西湖在杭州。"]}),
)
