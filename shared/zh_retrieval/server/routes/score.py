"""Scores of pairs, as vLLM gives them."""

from __future__ import annotations

import time
import uuid

from starlette.responses import Response

from zh_retrieval.base import Pair
from zh_retrieval.errors import InputError
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.problems import RequestError, openai
from zh_retrieval.server.routes.embedding import headers, json_reply
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.routes.scoring import pair_scores

_NAMES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


async def score(incoming: Incoming) -> Response:
    """Score pairs of `text_1` and `text_2`, one text with many or lists of one length, in the order of the input."""
    body = incoming.body
    served = incoming.running.models.reranker(body.get("model"))
    pairs = _pairs(body)
    raw = fields.switch(body, "raw_scores", not fields.switch(body, "use_activation", True))
    scores, used = await pair_scores(incoming, served, pairs, raw=raw)
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
    usage = {"prompt_tokens": used.tokens, "total_tokens": used.tokens}
    answer = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    model = body.get("model") or served.name
    return json_reply({**answer, "model": model, "data": data, "usage": usage}, headers(served, None, used))


_EXAMPLE = {"text_1": "西湖在哪里？", "text_2": ["西湖在杭州。", "长城在北京。"]}
ROUTES = tuple(Route("POST", path, score, openai, _EXAMPLE) for path in ("/score", "/v1/score"))


def _pairs(body: fields.Body) -> list[Pair]:
    for names in _NAMES:
        if all(body.get(name) is not None for name in names):
            first, second = (_texts(body, name) for name in names)
            break
    else:
        raise RequestError(400, "Expected text_1 and text_2, or queries and documents.", "missing_field")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise InputError(f"{names[0]} has {len(first)} texts and {names[1]} {len(second)}, expected 1 or equally many.")
    return list(zip(first, second, strict=True))


def _texts(body: fields.Body, name: str) -> list[str]:
    return fields.texts({name: [body[name]]} if isinstance(body[name], str) else body, name)
