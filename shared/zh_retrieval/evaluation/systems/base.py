"""The seam of the room: what can be evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.results import Run


class Task:
    """What systems are asked, and what those have answered that others build on.

    Attributes:
        dataset: Questions and passages.
        query_ids: The questions that count, in order.
        top_k: How many passages a ranking holds at most.
        show_progress: Show bars.
    """

    def __init__(self, dataset: Dataset, top_k: int, *, show_progress: bool = False) -> None:
        self.dataset = dataset
        self.query_ids = dataset.judged
        self.top_k = top_k
        self.show_progress = show_progress
        self._runs: dict[System, Run] = {}

    def run(self, system: System) -> Run:
        """Return what the system gives; it is asked once."""
        if system not in self._runs:
            self._runs[system] = system.search(self)
        return self._runs[system]


class System(ABC):
    """Something that ranks passages for questions: a model, a model and a reranker, BM25, a chain of a framework.

    Attributes:
        name: How tables call it; unlike every other in the evaluation.
        settings: What it is made with, for the report; values that JSON has.
        base: The system whose ranking it reorders; None for a first stage.
    """

    name: str
    settings: Mapping[str, Any]
    base: System | None = None

    @abstractmethod
    def search(self, task: Task) -> Run:
        """Return a ranking of at most `task.top_k` passages for each of `task.query_ids`.

        A query for which nothing is found has an empty ranking.
        """
