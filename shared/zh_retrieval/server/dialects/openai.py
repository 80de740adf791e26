"""OpenAI's dialect: embeddings, and the models by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from starlette.responses import Response

from zh_retrieval.errors import UnknownModelError
from zh_retrieval.server.dialects.embedding import Embedding, headers, vectors, vectors_as_json
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import openai
from zh_retrieval.server.requests.fields import Choice
from zh_retrieval.server.requests.texts import Texts
from zh_retrieval.server.routes.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings(Embedding):
    """POST /v1/embeddings."""

    input: Annotated[list[str], Texts("One text or a list of texts. Token ids are refused.", one=True, objects=True)]
    encoding_format: Annotated[
        str,
        Choice(
            "Vectors as lists of numbers, or as base64 of little-endian float32.",
            {"float": "float", "base64": "base64"}, also=("embedding_type", "encoding_type"),
        ),
    ] = "float"  # fmt: skip


async def embeddings(incoming: Incoming) -> Response:
    """Texts to vectors, as OpenAI gives them.

    Side: model `NAME-query`, or `input_type`, `prompt_name` or `task`; documents by default.
    """
    asked: Embeddings = incoming.asked
    served, of_id = incoming.running.models.encoder(asked.model)
    rows, side, used = await vectors(incoming, served, asked, of_id, asked.input, "input")
    usage = {"prompt_tokens": used.tokens, "total_tokens": used.tokens}
    if used.cut:
        usage |= {"truncated_inputs": used.cut, "truncated_tokens": used.lost}
    entries = [
        b'{"object":"embedding","index":%d,"embedding":%s}' % (index, vector)
        for index, vector in enumerate(await vectors_as_json(rows, asked.encoding_format))
    ]
    tail = orjson.dumps({"model": asked.model or served.name, "usage": usage})
    content = b'{"object":"list","data":[' + b",".join(entries) + b"]," + tail[1:]
    return Response(content, 200, headers(served, side, used), "application/json")


async def models(incoming: Incoming) -> Response:
    """List every id: NAME, NAME-query and NAME-document of an embedding model."""
    data = [_model(name) for name, _ in incoming.running.models.ids()]
    return Response(orjson.dumps({"object": "list", "data": data}), media_type="application/json")


async def model(incoming: Incoming) -> Response:
    """Describe one id."""
    given = incoming.scope["path_params"]["id"]
    for name, served in incoming.running.models.ids():
        if given.lower() in (name.lower(), served.spec.name.lower()):
            kind = {"embedding": "embedding", "reranking": "rerank"}.get(served.spec.task, "sparse")
            said = {"model_type": kind, "model_ability": [kind], "max_tokens": served.handle.max_length}
            return Response(orjson.dumps({**_model(given), **said}), media_type="application/json")
    listed = ", ".join(name for name, _ in incoming.running.models.ids())
    raise UnknownModelError(f"The model {given[:100]!r} is not served here. There are: {listed}.")


async def cluster_auth(incoming: Incoming) -> Response:
    """Say whether keys are asked for: Xinference's client sends its key only to a server that says so."""
    return Response(orjson.dumps({"auth": bool(incoming.running.settings.keys)}), media_type="application/json")


ROUTES = (
    *(
        Route("POST", path, embeddings, openai, Embeddings, {"model": "MODEL", "input": ["西湖在杭州。"]})
        for path in ("/v1/embeddings", "/embeddings")
    ),
    *(Route("GET", path, models, openai) for path in ("/v1/models", "/models")),
    Route("GET", "/v1/models/{id:path}", model, openai),
    Route("GET", "/v1/cluster/auth", cluster_auth, openai, public=True, work=False),
)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "zh-retrieval"}
