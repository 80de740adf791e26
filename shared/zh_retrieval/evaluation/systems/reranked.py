"""A reranker on top of another system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.evaluation.faults import cut_faults
from zh_retrieval.evaluation.results import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import Memory
from zh_retrieval.evaluation.systems.search import order
from zh_retrieval.evaluation.systems.store import Store, digest
from zh_retrieval.progress import Bar

if TYPE_CHECKING:
    import numpy as np


class Reranked(System):
    """The best `depth` passages of a first stage in the reranker's order, the others below them as they were.

    Scores are the reranker's; those of the passages below follow the lowest one in steps of 1, so that a run file has
    the order.
    """

    def __init__(
        self,
        name: str,
        base: System,
        load: Callable[[], Reranker],
        recipe: Mapping[str, Any],
        store: Store,
        *,
        depth: int = 50,
        instruction: str | None = None,
        title: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a reranker and the system below it.

        Args:
            name: How tables call it.
            base: The first stage.
            load: Opens the reranker.
            recipe: All that its scores depend on; equal pairs of equal recipes are scored once.
            store: Where scores are kept.
            depth: How many passages of each query are reordered.
            instruction: Replaces the reranker's own, of one that takes any.
            title: Whether a passage's title is put before its text.
            settings: For the report.
        """
        self.name = name
        self.base = base
        self.settings = {**(settings or {}), "depth": depth}
        self.depth = depth
        self._load = load
        self._instruction = instruction
        self._title = title
        self._shelf = store.shelf("scores", {**recipe, "instruction": instruction})

    def search(self, task: Task) -> Run:
        """Return the first stage's passages in the new order."""
        below = task.run(self.base)  # type: ignore[arg-type]
        rankings: dict[str, Ranking] = {}
        milliseconds: list[float] = []
        cuts: dict[str, int] = {}
        limit = pairs = 0
        memory = Memory()
        with (
            ExitStack() as stack,
            Bar(task.show_progress, desc=self.name, total=len(task.query_ids), unit="query") as bar,
        ):
            model: list[Reranker] = []

            def score(asked: Sequence[Pair]) -> dict[str, np.ndarray]:
                if not model:
                    model.append(stack.enter_context(self._load()))
                    model[0].score(asked[:1], instruction=self._instruction)  # the first call is slower than others
                return self._score(asked, model[0])

            for query in task.query_ids:
                found = below.rankings[query]
                top = found.ids[: self.depth]
                block = self._block(task, query, top, score)
                rankings[query] = reordered(found, self.depth, dict(zip(top, block["scores"].tolist(), strict=True)))
                if top:
                    milliseconds.append(float(block["ms"]))
                limit = int(block["limit"]) or limit
                pairs += len(top)
                for name, tokens in zip(top, block["tokens"].tolist(), strict=False):
                    if tokens > limit:
                        cuts[f"{query}: {name}"] = tokens
                memory.look()
                bar.advance(1)
        costs = self._costs(below.costs, milliseconds, memory)
        return Run(rankings, costs, tuple(cut_faults(cuts, pairs, limit, what="pairs")))

    def _block(
        self, task: Task, query: str, top: Sequence[str], score: Callable[[Sequence[Pair]], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        corpus = task.dataset.corpus
        pairs = [(task.dataset.queries[query], corpus[name].joined(title=self._title)) for name in top]
        key = digest([task.dataset.queries[query], *(document for _, document in pairs)])
        block = self._shelf.load(key)
        if block is None:
            block = score(pairs)
            self._shelf.save(key, block)
        return block

    def _score(self, pairs: Sequence[Pair], reranker: Reranker) -> dict[str, np.ndarray]:
        """Return scores, milliseconds and tokens: one query a call, as a user would wait for it."""
        import numpy as np

        start = time.perf_counter()
        scores = reranker.score(pairs, instruction=self._instruction)
        taken = (time.perf_counter() - start) * 1000
        tokens = reranker.token_counts(pairs)
        return {
            "scores": scores,
            "ms": np.array(taken),
            "tokens": np.array([] if tokens is None else tokens, dtype=np.int64),
            "limit": np.array(reranker.max_length),
        }

    def _costs(self, below: Costs, milliseconds: Sequence[float], memory: Memory) -> Costs:
        """Return the first stage's costs and the reranking on top."""
        extra = median(milliseconds) if milliseconds else 0.0
        total = None if below.ms_per_query is None else below.ms_per_query + extra
        return Costs(below.passages_per_second, total, below.index_bytes, memory.peak)


def reordered(found: Ranking, depth: int, scores: Mapping[str, float]) -> Ranking:
    """Return a ranking whose first `depth` passages are in the order of their new scores, the others below them."""
    top, rest = found.ids[:depth], found.ids[depth:]
    first = order(top, [scores[name] for name in top])
    least = min((scores[name] for name in top), default=0.0)
    below = (least - 1.0 - place for place in range(len(rest)))
    return Ranking((*first, *rest), (*(scores[name] for name in first), *below))
