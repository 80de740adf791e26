"""OpenAI's dialect: embeddings, and the models by id."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from zh_retrieval.errors import UnknownModelError
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.problems import openai
from zh_retrieval.server.routes.embedding import headers, inputs, side_of, vectors
from zh_retrieval.server.routes.route import Route

_ROWS = 64  # rows that are written as JSON before the event loop gets its turn


async def embeddings(incoming: Incoming) -> Response:
    """Texts to vectors, as OpenAI gives them.

    Side: model `NAME-query`, or `input_type`, `prompt_name` or `task`; documents by default.
    """
    body = incoming.body
    served, of_id = incoming.running.models.encoder(body.get("model"))
    side = side_of(body, of_id)
    form = fields.choice(body, "encoding_format", ("float", "base64"), "float")
    texts = inputs(body, "input")
    rows, used = await vectors(incoming, served, texts, side)
    usage = {"prompt_tokens": used.tokens, "total_tokens": used.tokens}
    if used.cut:
        usage |= {"truncated_inputs": used.cut, "truncated_tokens": used.lost}
    model = body.get("model") or served.name
    tail = orjson.dumps({"model": model, "usage": usage})
    content = b'{"object":"list","data":[' + b",".join(await _entries(rows, form)) + b"]," + tail[1:]
    return Response(content, 200, headers(served, side, used), "application/json")


async def models(incoming: Incoming) -> Response:
    """List every id: NAME, NAME-query and NAME-document of an embedding model."""
    data = [_model(name) for name, _ in incoming.running.models.ids()]
    return Response(orjson.dumps({"object": "list", "data": data}), media_type="application/json")


async def model(incoming: Incoming) -> Response:
    """Describe one id."""
    given = incoming.path["id"]
    for name, served in incoming.running.models.ids():
        if given.lower() in (name.lower(), served.spec.name.lower()):
            kind = "embedding" if served.spec.task == "embedding" else "rerank"
            said = {"model_type": kind, "model_ability": [kind], "max_tokens": served.handle.max_length}
            return Response(orjson.dumps({**_model(given), **said}), media_type="application/json")
    listed = ", ".join(name for name, _ in incoming.running.models.ids())
    raise UnknownModelError(f"The model {given[:100]!r} is not served here. There are: {listed}.")


ROUTES = (
    *(
        Route("POST", path, embeddings, openai, {"model": "MODEL", "input": ["西湖在杭州。"]})
        for path in ("/v1/embeddings", "/embeddings")
    ),
    *(Route("GET", path, models, openai) for path in ("/v1/models", "/models")),
    Route("GET", "/v1/models/{id:path}", model, openai),
)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "zh-retrieval"}


async def _entries(rows: np.ndarray, form: str) -> list[bytes]:
    entries = []
    for index, row in enumerate(rows):
        if index and index % _ROWS == 0:
            await asyncio.sleep(0)
        if form == "base64":
            vector = b'"' + base64.b64encode(row.tobytes()) + b'"'
        else:
            vector = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        entries.append(b'{"object":"embedding","index":%d,"embedding":%s}' % (index, vector))
    return entries
