"""What users tune, from rankings that are there: how many passages, how deep to rerank, which scores and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from zh_retrieval.evaluation.metrics import per_query
from zh_retrieval.evaluation.results import SystemResult
from zh_retrieval.evaluation.run import Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.dense import Dense
from zh_retrieval.evaluation.systems.hybrid import Hybrid
from zh_retrieval.evaluation.systems.reranked import Reranked, reordered
from zh_retrieval.evaluation.weights import sweep_weights

TOP_KS = (1, 3, 5, 10, 20, 50, 100)
DEPTHS = (5, 10, 20, 30, 50, 100, 200)
CHUNKS = (128, 256, 512)
THRESHOLD_DEPTH = 10
"""How many passages of each query a threshold is chosen from."""

Rows = list[dict[str, Any]]


def sweep(
    task: Task, systems: Sequence[System], results: Sequence[SystemResult], main: str, seed: int
) -> dict[str, Rows]:
    """Return rows for each thing that is tuned: "top_k", "rerank_depth", "score_threshold", "chunk", and weights.

    All but chunks come from rankings that are there already; chunk sizes are tried where passages are long enough.
    "extra_ms" is an estimate: what the whole depth took, in proportion. Scores that are made of ranks get no threshold.
    """
    curves, chosen = sweep_weights(task, [system for system in systems if isinstance(system, Hybrid)], main, seed)
    return {
        "top_k": _top_ks(task, results),
        "rerank_depth": _depths(task, systems, main),
        "score_threshold": [
            _threshold(task, result, system.scored)
            for system, result in zip(systems, results, strict=True)
            if system.scored and _has_scores(result)
        ],
        "chunk": _chunks(task, systems, main),
        "weight": curves,
        "weight_by_halves": chosen,
    }


def _top_ks(task: Task, results: Sequence[SystemResult]) -> Rows:
    rows = []
    for result in results:
        for k in TOP_KS:
            if k > task.top_k:
                continue
            means = _means(task, result.rankings, (f"R@{k}", f"P@{k}", f"Success@{k}"))
            rows.append(
                {"system": result.name, "top_k": k, "recall": means[0], "precision": means[1], "success": means[2]}
            )
    return rows


def _depths(task: Task, systems: Sequence[System], main: str) -> Rows:
    rows = []
    for system in systems:
        if not isinstance(system, Reranked) or system.base is None:
            continue
        below, above = task.run(system.base), task.run(system)
        extra = _extra_ms(below, above)
        for depth in (0, *(depth for depth in DEPTHS if depth < system.depth), system.depth):
            rankings = {
                query: reordered(found, depth, above.rankings[query].by_id()) for query, found in below.rankings.items()
            }
            (value,) = _means(task, rankings, (main,))
            ms = None if extra is None else extra * depth / system.depth
            rows.append({"system": system.name, "rerank_depth": depth, main: value, "extra_ms": ms})
    return rows


def _threshold(task: Task, result: SystemResult, scored: int) -> dict[str, Any]:
    """Return the score from which on the top passages are kept with the best F1, over all queries together.

    Only the first `scored` passages of a ranking have scores of the system.
    """
    import numpy as np

    pairs = [
        (score, task.dataset.qrels[query].get(name, 0) > 0)
        for query in task.query_ids
        for name, score in list(result.rankings[query].by_id().items())[: min(THRESHOLD_DEPTH, scored)]
    ]
    scores = np.array([score for score, _ in pairs])
    by_score = np.argsort(-scores, kind="stable")
    scores, right = scores[by_score], np.array([good for _, good in pairs])[by_score]
    wanted = sum(grade > 0 for query in task.query_ids for grade in task.dataset.qrels[query].values())
    kept = np.arange(1, len(scores) + 1)
    hits = np.cumsum(right)
    f1 = 2 * hits / (kept + wanted)
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores are kept or dropped together
    best = int(np.argmax(np.where(last, f1, -1.0)))
    return {
        "system": result.name,
        "score_threshold": _between(scores, best),
        "precision": float(hits[best] / kept[best]),
        "recall": float(hits[best] / wanted),
        "kept_per_query": float(kept[best] / len(task.query_ids)),
        "precision_without": float(hits[-1] / kept[-1]),
        "recall_without": float(hits[-1] / wanted),
    }


def _between(scores: Any, place: int) -> float:
    """Return a threshold half way to the next lower score: the one below depends on this sample alone."""
    return float(scores[place] if place + 1 == len(scores) else (scores[place] + scores[place + 1]) / 2)


def _has_scores(result: SystemResult) -> bool:
    return any(ranking.ids for ranking in result.rankings.values())


def _chunks(task: Task, systems: Sequence[System], main: str) -> Rows:
    """Return what chunk sizes do, where half of the passages are longer than the chunk."""
    length = median(len(passage.text) for passage in task.dataset.corpus.values())
    sizes = [size for size in CHUNKS if size < length]
    rows = []
    for system in systems:
        if not sizes or not isinstance(system, Dense):
            continue
        for size in (*sizes, None):
            run = task.run(system.chunked(size))
            (value,) = _means(task, run.rankings, (main,))
            rows.append(
                {"system": system.name, "chunk": size or "whole", main: value, "index_bytes": run.costs.index_bytes}
            )
    return rows


def _means(task: Task, rankings: Mapping[str, Ranking], measures: Sequence[str]) -> list[float]:
    values = per_query(task.dataset.qrels, task.query_ids, rankings, measures)
    return [sum(found.values()) / len(found) for found in values.values()]


def _extra_ms(below: Run, above: Run) -> float | None:
    if below.costs.ms_per_query is None or above.costs.ms_per_query is None:
        return None
    return above.costs.ms_per_query - below.costs.ms_per_query
