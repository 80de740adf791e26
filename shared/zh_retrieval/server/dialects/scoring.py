"""What the scoring dialects have in common: fields, scores from 0 to 1 unless raw ones are asked for, order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.ranking import FITTING, Ranked, normalize_scores, rank_scores
from zh_retrieval.server.dialects.embedding import MODEL
from zh_retrieval.server.dialects.lengths import TRUNCATE, check_cut_to, computed
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.requests.fields import Count, Ignored, Kind, Only, Switch
from zh_retrieval.server.requests.request import Request
from zh_retrieval.server.requests.texts import Text
from zh_retrieval.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(Request):
    """What can be asked of scores, however queries and documents are called."""

    model: Annotated[str | None, MODEL] = None
    instruction: Annotated[str | None, Text("Words that say what a match is, for models that take them.")] = None
    truncate: Annotated[bool, TRUNCATE] = True
    truncate_prompt_tokens: Annotated[
        int, Count("Tokens to cut pairs to: the model's, or -1, which says so.", least=-1)
    ] = -1
    raw_scores: Annotated[bool | None, Switch("Whether scores are the model's own numbers instead of 0 to 1.")] = None
    use_activation: Annotated[bool, Switch("The opposite of raw_scores.", also=("activation",))] = True

    others: ClassVar[dict[str, Kind]] = {
        "truncation_direction": Only("texts are cut at their end", "right"),
        "add_special_tokens": Only("the model's recipe says which tokens are added", True),
        **dict.fromkeys(("user", "priority", "request_id"), Ignored("For other servers; changes nothing here.")),
    }


@dataclass(frozen=True, slots=True)
class Result:
    """Documents, best first, and what it took to score them."""

    ranked: list[Ranked]
    used: Usage


async def pair_scores(
    incoming: Incoming, served: ServedModel[Reranker], asked: Scoring, pairs: list[Pair], names: tuple[str, str]
) -> tuple[list[float], Usage]:
    """Return the score of each pair: 0..1 (sigmoid of a logit, exponential of a log-likelihood), or raw.

    Args:
        incoming: The request.
        served: The model.
        asked: What is asked of the scores.
        pairs: (query, document) each.
        names: The fields that held the queries and the documents.
    """
    check_cut_to(served, "truncate_prompt_tokens", asked.truncate_prompt_tokens)
    work = incoming.running.score(served, pairs, asked.instruction, cut=asked.truncate)
    scores, used = await computed(work, {"pairs": names[1]}, cut=asked.truncate)
    assert served.spec.scoring is not None
    raw = not asked.use_activation if asked.raw_scores is None else asked.raw_scores
    return normalize_scores(scores, "none" if raw else FITTING[served.spec.scoring][-1]), used


async def ranked(
    incoming: Incoming, served: ServedModel[Reranker], asked: Scoring, query: str, documents: list[str], name: str,
    top_n: int | None = None,
) -> Result:  # fmt: skip
    """Return the best `top_n` documents (None or 0: all) of the field `name`, best first."""
    pairs = [(query, document) for document in documents]
    scores, used = await pair_scores(incoming, served, asked, pairs, ("query", name))
    return Result(rank_scores(scores, top_n or None), used)
