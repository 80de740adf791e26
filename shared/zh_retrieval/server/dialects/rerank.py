"""Reranking as Jina, Cohere (v1 and v2), Voyage, Xinference and vLLM have it; TEI's is told by its field `texts`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from starlette.responses import Response

from zh_retrieval.server.dialects import tei
from zh_retrieval.server.dialects.embedding import headers, json_reply
from zh_retrieval.server.dialects.lengths import check_cut_to
from zh_retrieval.server.dialects.scoring import Scoring, ranked
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import rerank
from zh_retrieval.server.requests.fields import Count, Ignored, Kind, Only, Switch
from zh_retrieval.server.requests.texts import Documents, Text
from zh_retrieval.server.routes.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank(Scoring):
    """POST /v1/rerank."""

    query: Annotated[str, Text("The question.", blank=False)]
    documents: Annotated[list[str], Documents("The texts to order, or objects with a text.")]
    top_n: Annotated[int | None, Count("Results to give, the best ones; 0 is all.", least=0, also=("top_k",))] = None
    return_documents: Annotated[bool, Switch("Whether each result holds its document.")] = False
    max_tokens_per_doc: Annotated[
        int | None, Count("Tokens to cut documents to: not fewer than the model takes.", least=1)
    ] = None

    others: ClassVar[dict[str, Kind]] = {
        **Scoring.others,
        "rank_fields": Only("documents are ordered by their text", ["text"]),
        "relevant_spans": Only("spans are not computed", False),
        **dict.fromkeys(
            ("max_chunks_per_doc", "return_len"), Ignored("A document is one piece; what is cut is counted in usage.")
        ),
    }


async def either(incoming: Incoming) -> Response:
    """Order documents by how well they answer the query, as Jina and Cohere do; with `texts`, as TEI does."""
    return await (tei.rerank if isinstance(incoming.asked, tei.Rerank) else documents)(incoming)


async def documents(incoming: Incoming) -> Response:
    """Order `documents` by how well they answer `query`: results with index and relevance_score, best first."""
    return await reranked(incoming, lambda text: {"text": text})


async def reranked(incoming: Incoming, shown: Callable[[str], Any]) -> Response:
    """Return the answer, with each document as `shown` gives it."""
    asked: Rerank = incoming.asked
    served = incoming.running.models.reranker(asked.model)
    check_cut_to(served, "max_tokens_per_doc", asked.max_tokens_per_doc)
    result = await ranked(incoming, served, asked, asked.query, asked.documents, "documents", asked.top_n)
    scores: list[dict[str, Any]] = [{"index": one.index, "relevance_score": one.score} for one in result.ranked]
    results = scores
    if asked.return_documents:
        results = [{**score, "document": shown(asked.documents[score["index"]])} for score in scores]
    tokens = result.used.tokens
    usage: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
    if result.used.cut:
        usage |= {"truncated_inputs": result.used.cut, "truncated_tokens": result.used.lost}
    meta = {
        "api_version": {"version": "2", "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    answer = {"id": str(uuid.uuid4()), "object": "rerank", "model": asked.model or served.name}
    body = {**answer, "results": results, "data": scores, "usage": usage, "meta": meta}  # Voyage's client reads data
    return json_reply(body, headers(served, None, result.used))


_EXAMPLE = {"query": "西湖在哪里？", "documents": ["西湖在杭州。", "长城在北京。"], "top_n": 1}
ROUTES = (
    Route("POST", "/rerank", either, rerank, {"documents": Rerank, "texts": tei.Rerank}, _EXAMPLE),
    Route("POST", "/v1/rerank", documents, rerank, Rerank, _EXAMPLE),
    Route("POST", "/v2/rerank", documents, rerank, Rerank, _EXAMPLE),
)
