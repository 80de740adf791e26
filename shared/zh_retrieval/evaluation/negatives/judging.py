"""Scores of every question's pool, on one scale: by a reranker, or by the dense model where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zh_retrieval
from zh_retrieval.evaluation.negatives.mining import Pool, Scores
from zh_retrieval.evaluation.systems.arguments import ModelArgument
from zh_retrieval.evaluation.systems.base import Task
from zh_retrieval.evaluation.systems.building import rerank_on
from zh_retrieval.evaluation.systems.dense import Dense
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.ranking import FITTING, normalize_scores


def by_reranker(task: Task, pool: Pool, reranker: str, flags: Mapping[str, Any], store: Store) -> Scores:
    """Return scores of 0 to 1: sigmoid of a logit, exp of a log-likelihood. What was scored before is not again.

    Args:
        task: The questions.
        pool: What each is scored with.
        reranker: What was written for it: `NAME[=FOLDER][,setting=value...]`.
        flags: Load options that hold for all.
        store: Where scores are kept.

    Raises:
        UnknownModelError: There is no such model.
        WrongTaskError: It is no reranker.
        ConfigError: A setting makes no sense.
    """
    import numpy as np

    scoring = zh_retrieval.get_spec(ModelArgument.parse(reranker).name).scoring
    system = rerank_on(pool, reranker, flags, store)
    normalize = FITTING[scoring][-1] if scoring else "none"
    found: dict[str, dict[str, float]] = {}
    for query, ranking in task.run(system).rankings.items():
        scores = normalize_scores(np.array(ranking.scores, dtype=np.float32), normalize)
        found[query] = dict(zip(ranking.ids, scores, strict=True))
    return found


def by_encoder(task: Task, pool: Pool, model: Dense) -> Scores:
    """Return cosines. The vectors are those that the model's search has kept."""
    return model.similarities(task, {query: ranking.ids for query, ranking in task.run(pool).rankings.items()})
