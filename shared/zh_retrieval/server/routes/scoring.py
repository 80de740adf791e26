"""What the reranking dialects have in common: scores from 0 to 1 unless raw ones are asked for, order, lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.errors import InputError
from zh_retrieval.ranking import FITTING, Ranked, normalize_scores, rank_scores
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.problems import RequestError
from zh_retrieval.server.served import Served
from zh_retrieval.usage import Usage


@dataclass(frozen=True, slots=True)
class Result:
    """Documents, best first, and what it took to score them."""

    ranked: list[Ranked]
    used: Usage


async def pair_scores(
    incoming: Incoming, served: Served[Reranker], pairs: list[Pair], *, raw: bool
) -> tuple[list[float], Usage]:
    """Return the score of each pair: 0..1 (sigmoid of a logit, exponential of a log-likelihood), or raw.

    Reads the fields `instruction` and `truncate`.
    """
    instruction = fields.optional_text(incoming.body, "instruction")
    if not fields.switch(incoming.body, "truncate", True):
        try:
            scores, used = await incoming.running.score(served, pairs, instruction, cut=False)
        except InputError as error:
            raise RequestError(422, str(error), "too_long") from None
    else:
        scores, used = await incoming.running.score(served, pairs, instruction)
    return _mapped(served, scores, raw), used


async def scored(
    incoming: Incoming, served: Served[Reranker], query: str, documents: list[str], top_n: int | None = None
) -> Result:
    """Return the best `top_n` documents (None or 0: all), best first. Reads `raw_scores` as well."""
    raw = fields.switch(incoming.body, "raw_scores", False)
    scores, used = await pair_scores(incoming, served, [(query, document) for document in documents], raw=raw)
    return Result(rank_scores(scores, top_n or None), used)


def _mapped(served: Served[Reranker], scores: np.ndarray, raw: bool) -> list[float]:
    assert served.spec.scoring is not None
    return normalize_scores(scores, "none" if raw else FITTING[served.spec.scoring][-1])
