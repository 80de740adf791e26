"""A reranker on top of another system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from zh_retrieval import checks
from zh_retrieval.base import Pair, Reranker
from zh_retrieval.evaluation.faults.finding import cut_faults
from zh_retrieval.evaluation.run import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import SAMPLE, Memory
from zh_retrieval.evaluation.systems.search import order
from zh_retrieval.evaluation.systems.store import Lazy, Store, Weights, digest
from zh_retrieval.progress import Bar

if TYPE_CHECKING:
    import numpy as np


class Reranked(System):
    """The best `depth` passages of another system in the reranker's order, the others below them as they were.

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
        conditions: str = "",
        weights: Weights | None = None,
    ) -> None:
        """Take a reranker and the system below it.

        Args:
            name: How tables call it.
            base: The first stage, or another reranker: then this is a further step of a cascade.
            load: Opens the reranker.
            recipe: All that its scores depend on; equal pairs of equal recipes are scored once.
            store: Where scores are kept.
            depth: How many passages of each query are reordered.
            instruction: Replaces the reranker's own, of one that takes any.
            title: Whether a passage's title is put before its text.
            settings: For the report.
            conditions: Key of all that times depend on; times kept under another key are not shown.
            weights: Tells other weights of an equal recipe apart; None where the recipe says it all.

        Raises:
            ConfigError: `depth` is no positive whole number.
        """
        checks.whole_number("depth", depth, "a positive whole number: how many passages are reranked")
        self.name = name
        self.base = base
        self.settings = {**(settings or {}), "depth": depth}
        self.depth = self.scored = depth
        self._load = load
        self._instruction = instruction
        self._title = title
        self._conditions = conditions
        self._store, self._recipe, self._weights = store, {**recipe, "instruction": instruction}, weights

    def search(self, task: Task) -> Run:
        """Return the other system's passages in the new order."""
        below = task.deep(self.base)  # type: ignore[arg-type]
        rankings: dict[str, Ranking] = {}
        spent = _Spent(self._conditions)
        cuts: dict[str, int] = {}
        limit = pairs = 0
        with (
            ExitStack() as stack,
            Bar(task.show_progress, desc=self.name, total=len(task.query_ids), unit="query") as bar,
        ):
            model = Lazy(self._load, stack)
            warm: list[bool] = []

            def score(asked: Sequence[Pair]) -> dict[str, np.ndarray]:
                if not warm:
                    model.get().score(asked[:1], instruction=self._instruction)  # the first call is slower than others
                    warm.append(True)
                return self._score(asked, model.get())

            fingerprint = (
                {"fingerprint": self._weights.fingerprint(self._store, self._recipe, model.get)}
                if self._weights
                else {}
            )
            self._shelf = self._store.shelf("scores", {**self._recipe, **fingerprint})

            for query in task.query_ids:
                found = below.rankings[query]
                top = found.ids[: self.depth]
                if top:
                    block = self._block(task, query, top, score, spent)
                    rankings[query] = reordered(
                        found, self.depth, dict(zip(top, block["scores"].tolist(), strict=True))
                    )
                    limit = int(block["limit"]) or limit
                    pairs += len(top)
                    for name, tokens in zip(top, block["tokens"].tolist(), strict=False):
                        if tokens > limit:
                            cuts[f"{query}: {name}"] = tokens
                else:
                    rankings[query] = found
                bar.advance(1)
        return Run(
            rankings,
            spent.costs(below.costs, pairs / len(rankings)),
            tuple(cut_faults(cuts, pairs, limit, what="pairs")),
        )

    def _block(
        self, task: Task, query: str, top: Sequence[str], score: Callable[[Sequence[Pair]], dict[str, np.ndarray]],
        spent: _Spent,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Return scores that were kept, or are computed now; kept ones without a time of this run, to have a few."""
        corpus = task.dataset.corpus
        pairs = [(task.dataset.queries[query], corpus[name].joined(title=self._title)) for name in top]
        key = digest([task.dataset.queries[query], *(document for _, document in pairs)])
        block = self._shelf.load(key)
        earlier = block is not None and not spent.lacks(block)
        if block is None or not earlier:
            block = score(pairs)
            self._shelf.save(key, block)
        spent.add(block, earlier=earlier)
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
            "conditions": np.array(self._conditions),
            "tokens": np.array([] if tokens is None else tokens, dtype=np.int64),
            "limit": np.array(reranker.max_length),
        }


class _Spent:
    """Times of reranking one query's passages, of this run's conditions alone, and the memory of what is computed."""

    def __init__(self, conditions: str) -> None:
        self._conditions = conditions
        self._milliseconds: list[float] = []
        self._memory = Memory()
        self._earlier = False

    def lacks(self, block: Mapping[str, np.ndarray]) -> bool:
        """Return True if a kept block has a time of other conditions, and there are too few of these so far."""
        return len(self._milliseconds) < SAMPLE and not self._matches(block)

    def add(self, block: Mapping[str, np.ndarray], *, earlier: bool) -> None:
        if self._matches(block):
            self._milliseconds.append(float(block["ms"]))
            self._earlier |= earlier
        if not earlier:
            self._memory.look()

    def costs(self, below: Costs, pairs: float) -> Costs:
        """Return the costs of what is below and of reranking so many pairs a query; nothing to rerank costs nothing."""
        extra = median(self._milliseconds) if self._milliseconds else 0.0
        total = None if below.ms_per_query is None else below.ms_per_query + extra
        memory = None if self._earlier else self._memory.peak
        earlier = below.earlier or self._earlier
        pairs += below.pairs_per_query or 0.0
        return Costs(below.passages_per_second, total, below.index_bytes, memory, earlier, pairs)

    def _matches(self, block: Mapping[str, np.ndarray]) -> bool:
        return "conditions" in block and str(block["conditions"]) == self._conditions


def reordered(ranking: Ranking, depth: int, scores: Mapping[str, float]) -> Ranking:
    """Return a ranking whose first `depth` passages are in the order of their new scores, the others below them."""
    top, rest = ranking.ids[:depth], ranking.ids[depth:]
    first = order(top, [scores[name] for name in top])
    least = min((scores[name] for name in top), default=0.0)
    below = (least - 1.0 - place for place in range(len(rest)))
    return Ranking((*first, *rest), (*(scores[name] for name in first), *below))
