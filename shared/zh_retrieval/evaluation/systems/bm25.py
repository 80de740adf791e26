"""BM25, the line to beat: no model, no GPU, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from zh_retrieval.evaluation.run import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import SAMPLE, Memory, median_ms
from zh_retrieval.sparse.index import BM25Index

NAME = "bm25"


class BM25(System):
    """`zh_retrieval.sparse.BM25Index` over the passages: pairs of Chinese characters, words of other scripts."""

    def __init__(self, name: str = NAME, *, title: bool = True, k1: float = 1.2, b: float = 0.75) -> None:
        """Take the parameters.

        Raises:
            ConfigError: A parameter makes no sense.
        """
        BM25Index(k1=k1, b=b)  # refuses now what it would refuse when passages are there
        self.name = name
        self.settings: Mapping[str, Any] = {"title": title, "k1": k1, "b": b, "terms": "character bigrams"}
        self._title, self._k1, self._b = title, k1, b

    def search(self, task: Task) -> Run:
        """Return the passages that share a term with the query; a query that shares none has an empty ranking."""
        memory = Memory()
        corpus = task.dataset.corpus
        ids = sorted(corpus, reverse=True)  # of equal scores the first here is the first there, as trec_eval has it
        start = time.perf_counter()
        texts = (corpus[name].joined(title=self._title) for name in ids)
        index = BM25Index(texts, ids=ids, k1=self._k1, b=self._b)
        seconds = time.perf_counter() - start
        asked = [task.dataset.queries[query] for query in task.query_ids]

        def find(text: str) -> Ranking:
            found = index.search(text, task.depth)
            return Ranking(tuple(name for name, _ in found), tuple(score for _, score in found))

        rankings = {query: find(text) for query, text in zip(task.query_ids, asked, strict=True)}
        memory.look()
        costs = Costs(len(ids) / seconds, median_ms(find, asked[:SAMPLE]), index.nbytes, memory.peak)
        return Run(rankings, costs)
