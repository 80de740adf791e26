"""Scores of pairs, as vLLM gives them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Annotated

from starlette.responses import Response

from zh_retrieval.server.dialects.embedding import headers, json_reply
from zh_retrieval.server.dialects.scoring import Scoring, pair_scores
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import RequestError, openai
from zh_retrieval.server.requests.texts import Texts
from zh_retrieval.server.routes.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Scoring):
    """POST /score."""

    text_1: Annotated[list[str], Texts("The queries: one text, or a list.", one=True, also=("queries", "data_1"))]
    text_2: Annotated[
        list[str],
        Texts("The documents: one text, or a list.", one=True, empty=True, also=("documents", "items", "data_2")),
    ]


async def score(incoming: Incoming) -> Response:
    """Score pairs of `text_1` and `text_2`, one text with many or lists of one length, in the order of the input."""
    asked: Score = incoming.asked
    served = incoming.running.models.reranker(asked.model)
    queries, documents = asked.text_1, asked.text_2
    queries = queries * len(documents) if len(queries) == 1 else queries
    if len(queries) != len(documents):
        raise RequestError(
            400, f"text_1 (queries) has {len(queries)} texts and text_2 (documents) {len(documents)}, expected one or "
            "equally many.", None, "text_1",
        )  # fmt: skip
    pairs = list(zip(queries, documents, strict=True))
    scores, used = await pair_scores(incoming, served, asked, pairs, ("text_1", "text_2"))
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
    usage = {"prompt_tokens": used.tokens, "total_tokens": used.tokens}
    answer = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    model = asked.model or served.name
    return json_reply({**answer, "model": model, "data": data, "usage": usage}, headers(served, None, used))


_EXAMPLE = {"text_1": "西湖在哪里？", "text_2": ["西湖在杭州。", "长城在北京。"]}
ROUTES = tuple(Route("POST", path, score, openai, Score, _EXAMPLE) for path in ("/score", "/v1/score"))
