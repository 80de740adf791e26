"""Our own protocol, spoken by `base_url=`: sides by name, raw float32, errors by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.base import Pair, Span
from zh_retrieval.errors import InputError
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.models import Side
from zh_retrieval.server.problems import RequestError, own
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.served import Served
from zh_retrieval.usage import Usage
from zh_retrieval.validation import check_text

_ROOT = "/v1/zh-retrieval"
_SIDES: dict[str, Side] = {"query": "query", "document": "document"}


async def models(incoming: Incoming) -> Response:
    """List the models, with what clients compare before they ask for results."""
    settings = incoming.running.settings
    limits = {"max_texts": settings.max_texts, "max_body_bytes": settings.max_body_bytes}
    listed = [{**served.described(), "limits": limits} for served in incoming.running.models.all]
    return Response(orjson.dumps({"version": __version__, "models": listed}), media_type="application/json")


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors."""
    body = incoming.body
    served, _ = incoming.running.models.encoder(fields.text(body, "model"))
    side = _SIDES[fields.choice(body, "side", tuple(_SIDES), "document")]
    texts = fields.texts(body, "texts", empty=True)
    instruction = fields.optional_text(body, "instruction")
    if instruction is not None and side == "document":
        raise InputError("instruction is for queries. Say side='query', or leave it out.")
    return _binary(served, *await incoming.running.embed(served, texts, side, instruction))


async def score(incoming: Incoming) -> Response:
    """Pairs to raw scores."""
    body = incoming.body
    served = incoming.running.models.reranker(fields.text(body, "model"))
    pairs = list(_pairs(body))
    instruction = fields.optional_text(body, "instruction")
    return _binary(served, *await incoming.running.score(served, pairs, instruction))


async def chunks(incoming: Incoming) -> Response:
    """Parts of a document to vectors, each seen in the whole of it (late chunking)."""
    body = incoming.body
    served, _ = incoming.running.models.encoder(fields.text(body, "model"))
    document, spans = fields.text(body, "document"), list(_spans(body))
    return _binary(served, *await incoming.running.chunks(served, document, spans))


ROUTES = (
    Route("GET", f"{_ROOT}/models", models, own),
    Route("POST", f"{_ROOT}/embed", embed, own, {"model": "MODEL", "side": "query", "texts": ["西湖在哪里？"]}),
    Route("POST", f"{_ROOT}/score", score, own, {"model": "RERANKER", "pairs": [["西湖在哪里？", "西湖在杭州。"]]}),
    Route(
        "POST", f"{_ROOT}/chunks", chunks, own,
        {"model": "MODEL", "document": "西湖在杭州。它很美。", "spans": [[0, 6], [6, 10]]},
    ),
)  # fmt: skip


def _pairs(body: fields.Body) -> Iterator[Pair]:
    for index, pair in enumerate(_list(body, "pairs")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(f"pairs[{index}] is {type(pair).__name__}, expected [query, document].")
        check_text(pair[0], f"pairs[{index}] query")
        check_text(pair[1], f"pairs[{index}] document")
        yield pair[0], pair[1]


def _spans(body: fields.Body) -> Iterator[Span]:
    for index, span in enumerate(_list(body, "spans")):
        if not isinstance(span, list) or len(span) != 2 or not all(type(end) is int for end in span):
            raise InputError(f"spans[{index}] is {str(span)[:60]}, expected [first character, end].")
        yield span[0], span[1]


def _list(body: fields.Body, name: str) -> list[object]:
    value = body.get(name)
    if not isinstance(value, list):
        raise RequestError(400, f"{name} is {type(value).__name__}, expected a list.", None, name)
    return value


def _binary(served: Served[Any], rows: np.ndarray, used: Usage) -> Response:
    headers = {
        "x-rows": str(len(rows)),
        "x-dimension": str(rows.shape[1] if rows.ndim == 2 else 1),
        "x-truncated": str(used.cut),
        "x-weights": served.weights,
    }
    return Response(rows.tobytes(), headers=headers, media_type="application/octet-stream")
