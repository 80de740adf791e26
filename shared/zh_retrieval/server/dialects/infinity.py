"""infinity's dialect, where it is not the others': a document in an answer is a text, not an object."""

from __future__ import annotations

from starlette.responses import Response

from zh_retrieval.server.dialects.openai import Embeddings, embeddings, models
from zh_retrieval.server.dialects.rerank import Rerank, reranked
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import openai
from zh_retrieval.server.routes.route import Route


async def rerank(incoming: Incoming) -> Response:
    """Order `documents` by how well they answer `query`, as infinity does: a document that is returned is a text."""
    return await reranked(incoming, lambda text: text)


_EXAMPLE = {"query": "西湖在哪里？", "documents": ["西湖在杭州。", "长城在北京。"], "return_documents": True}
ROUTES = (
    Route(
        "POST", "/infinity/embeddings", embeddings, openai, Embeddings, {"model": "MODEL", "input": ["西湖在杭州。"]}
    ),
    Route("POST", "/infinity/rerank", rerank, openai, Rerank, _EXAMPLE),
    Route("GET", "/infinity/models", models, openai),
)
