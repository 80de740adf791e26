"""The sum of two sides' z-scores: BM25 and an embedding model."""

from __future__ import annotations

from collections.abc import Callable

from zh_retrieval.evaluation.run import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import SAMPLE, median_ms
from zh_retrieval.sparse.fusion import DEPTH, WEIGHT, fuse


class Hybrid(System):
    """What two other systems find, by the weighted sum of their scores: `zh_retrieval.sparse.fuse`, no more.

    Scores are sums of z-scores of each question's own lists, so those of two questions do not compare.
    """

    scored = 0  # no threshold holds for all questions

    def __init__(
        self, name: str, dense: System, lexical: System, *, weight: float = WEIGHT, depth: int = DEPTH
    ) -> None:
        """Take the sides.

        Args:
            name: How tables call it.
            dense: The embedding model.
            lexical: BM25.
            weight: The dense side's share, 0 to 1; the other has the rest.
            depth: How many passages of each side count.

        Raises:
            ConfigError: `weight` is no share, or `depth` no positive whole number.
        """
        fuse((), (), weight=weight, depth=depth)  # refuses now what it would refuse after both sides were searched
        self.name = name
        self.sides = (lexical, dense)
        self.settings = {"weight": weight, "depth": depth, "scores": "sum of z-scores"}
        self.weight, self.depth = weight, depth

    def search(self, task: Task) -> Run:
        """Return both sides' passages by the sum of their scores."""
        rankings = self.weighted(task, self.weight)
        lexical, dense = (task.deep(side) for side in self.sides)
        fusing = median_ms(lambda query: self._fused(task, query, self.weight), task.query_ids[:SAMPLE])
        return Run(rankings, _sum(lexical.costs, dense.costs, fusing))

    def weighted(self, task: Task, weight: float) -> dict[str, Ranking]:
        """Return the rankings that another weight gives."""
        return {query: self._fused(task, query, weight) for query in task.query_ids}

    def _fused(self, task: Task, query: str, weight: float) -> Ranking:
        lexical, dense = (
            list(zip(found.ids, found.scores, strict=True))
            for found in (task.deep(side).rankings[query] for side in self.sides)
        )
        fused = fuse(dense, lexical, weight=weight, depth=self.depth)[: task.top_k]
        return Ranking(tuple(found.id for found in fused), tuple(found.score for found in fused))


def _sum(lexical: Costs, dense: Costs, fusing: float) -> Costs:
    """Return what both sides cost, one after the other, and the sum; None where a side does not say."""

    def both(first: float | None, second: float | None, join: Callable[[float, float], float]) -> float | None:
        return None if first is None or second is None else join(first, second)

    size = both(lexical.index_bytes, dense.index_bytes, lambda a, b: a + b)
    memory = both(lexical.memory_bytes, dense.memory_bytes, max)
    return Costs(
        both(lexical.passages_per_second, dense.passages_per_second, lambda a, b: 1 / (1 / a + 1 / b)),
        both(lexical.ms_per_query, dense.ms_per_query, lambda a, b: a + b + fusing),
        None if size is None else int(size),
        None if memory is None else int(memory),
        lexical.earlier or dense.earlier,
    )
