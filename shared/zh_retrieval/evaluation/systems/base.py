"""The seam of the room: what can be evaluated."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.run import Run


class Task:
    """What systems are asked, and what those have answered that others build on.

    Attributes:
        dataset: Questions and passages.
        query_ids: The questions that count, in order.
        top_k: How many passages a ranking holds at most.
        depth: How many a system finds that others are built on: `top_k`, or more where one of them looks deeper.
        show_progress: Show bars.
    """

    def __init__(self, dataset: Dataset, top_k: int, *, depth: int = 0, show_progress: bool = False) -> None:
        self.dataset = dataset
        self.query_ids = dataset.judged
        self.top_k = top_k
        self.depth = max(top_k, depth)
        self.show_progress = show_progress
        self._runs: dict[System, Run] = {}
        self._cut: dict[System, Run] = {}

    def run(self, system: System) -> Run:
        """Return what the system gives, `top_k` passages at most; it is asked once."""
        if system not in self._cut:
            found = self.deep(system)
            rankings = {query: ranking.first(self.top_k) for query, ranking in found.rankings.items()}
            self._cut[system] = replace(found, rankings=rankings)
        return self._cut[system]

    def deep(self, system: System) -> Run:
        """Return what the system gives, `depth` passages at most; it is asked once."""
        if system not in self._runs:
            self._runs[system] = system.search(self)
        return self._runs[system]


class System(ABC):
    """Something that ranks passages for questions: a model, a model and a reranker, BM25, a chain of a framework.

    Attributes:
        name: How tables call it; unlike every other in the evaluation.
        settings: What it is made with, for the report; values that JSON has.
        base: The system whose ranking it reorders; None for a first stage.
        sides: The systems whose scores it sums; () for all but hybrids.
        scored: How many passages of a ranking have scores of their own; the others' are made of their ranks.
    """

    name: str
    settings: Mapping[str, Any]
    base: System | None = None
    sides: tuple[System, ...] = ()
    scored: int = sys.maxsize

    @abstractmethod
    def search(self, task: Task) -> Run:
        """Return a ranking for each of `task.query_ids`: at most `task.top_k` passages count.

        A system that may be the side of a hybrid finds `task.depth` of them. A query for which nothing is found has an
        empty ranking.
        """
