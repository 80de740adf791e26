"""Reranking as Jina, Cohere (v1 and v2), infinity, Xinference and vLLM have it; TEI's is told by its field `texts`."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.responses import Response

from zh_retrieval.errors import InputError
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.problems import Problem, RequestError, rerank, tei
from zh_retrieval.server.routes import tei as tei_routes
from zh_retrieval.server.routes.embedding import headers, json_reply
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.routes.scoring import scored
from zh_retrieval.validation import check_text


async def either(incoming: Incoming) -> Response:
    """Order documents by how well they answer the query, as Jina and Cohere do; with `texts`, as TEI does."""
    has_texts, has_documents = (incoming.body.get(name) is not None for name in ("texts", "documents"))
    if has_texts and not has_documents:
        return await tei_routes.rerank(incoming)
    if has_documents == has_texts:
        given = "both of them" if has_texts else "neither"
        raise RequestError(400, f"Expected 'documents' (Jina, Cohere) or 'texts' (TEI), got {given}.", "missing_field")
    return await documents(incoming)


async def documents(incoming: Incoming) -> Response:
    """Order `documents` by how well they answer `query`: results with index and relevance_score, best first."""
    body = incoming.body
    served = incoming.running.models.reranker(body.get("model"))
    texts = _documents(body)
    top_n = fields.count(body, "top_n") or fields.count(body, "top_k")
    result = await scored(incoming, served, fields.text(body, "query"), texts, top_n)
    with_text = fields.switch(body, "return_documents", False)
    results: list[dict[str, Any]] = [
        {
            "index": entry.index,
            "relevance_score": entry.score,
            **({"document": {"text": texts[entry.index]}} if with_text else {}),
        }
        for entry in result.ranked
    ]
    tokens = result.used.tokens
    usage: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
    if result.used.cut:
        usage |= {"truncated_inputs": result.used.cut, "truncated_tokens": result.used.lost}
    meta = {
        "api_version": {"version": "2", "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    answer = {"id": str(uuid.uuid4()), "object": "rerank", "model": body.get("model") or served.name}
    return json_reply({**answer, "results": results, "usage": usage, "meta": meta}, headers(served, None, result.used))


def _documents(body: fields.Body) -> list[str]:
    value = body.get("documents")
    if not isinstance(value, list):
        raise InputError(f"documents is {type(value).__name__}, expected a list of texts.")
    if not value:
        raise RequestError(400, "documents is an empty list, expected at least one text.", "empty", "documents")
    texts: list[str] = []
    for index, entry in enumerate(value):
        document = entry.get("text") if isinstance(entry, dict) else entry
        check_text(document, f"documents[{index}]")
        texts.append(str(document))
    return texts


def _either(found: Problem, body: dict[str, Any]) -> tuple[int, Any]:
    """Say an error as TEI to whoever sent `texts`, and as Jina and Cohere to others."""
    return tei(found, body) if "texts" in body and "documents" not in body else rerank(found, body)


_EXAMPLE = {"query": "西湖在哪里？", "documents": ["西湖在杭州。", "长城在北京。"], "top_n": 1}
ROUTES = (
    Route("POST", "/rerank", either, _either, _EXAMPLE),
    Route("POST", "/v1/rerank", documents, rerank, _EXAMPLE),
    Route("POST", "/v2/rerank", documents, rerank, _EXAMPLE),
)
