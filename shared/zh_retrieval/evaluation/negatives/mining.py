"""Which passages are wrong answers that look right.

Candidates are the first `depth` passages of BM25 and of the dense model. A judge, the reranker or else the dense model,
scores them beside the right passages. A candidate whose score comes near that of a right passage may be right, and
nobody has said so: it is left out. NV-Retriever (arXiv:2407.15831, TopK-PercPos) measures "near" as a share of the
right score; here it is a share of what lies between that and the lowest score of the pool, because cosines of unrelated
texts are 0.1 with one model and 0.75 with another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.faults.duplicates import Twins, normalized, twins
from zh_retrieval.evaluation.run import Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.search import order

Scores = Mapping[str, Mapping[str, float]]
"""Query id -> passage id -> the judge's score, higher is better."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a negative is.

    Attributes:
        number: Negatives of a question at most.
        margin: 0 is the lowest score of a right passage, 1 the lowest of all that was judged for the question: a
            negative lies beyond this share of the way.

    Raises:
        ConfigError: `number` is no positive whole number, `margin` no number from 0 to below 1.
    """

    number: int = 7
    margin: float = 0.1

    def __post_init__(self) -> None:
        checks.whole_number("number", self.number, "a positive whole number of negatives")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin={self.margin!r} must be a number from 0 to below 1: a share.")


@dataclass(frozen=True, slots=True)
class Example:
    """One question to train on: right passages and hard negatives with the judge's scores, hardest first."""

    query: str
    right: Mapping[str, float]
    negatives: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found.

    Attributes:
        examples: Of each question that has a negative, in the order of the questions.
        questions: How many were looked at.
        near_duplicates: Candidates left out because they hold a right passage's text, or another negative's.
        too_close: Candidates left out because the judge's score is within the margin of a right one, or above.
        without: Questions without any negative left.
    """

    examples: tuple[Example, ...]
    questions: int
    near_duplicates: int = 0
    too_close: int = 0
    without: tuple[str, ...] = ()


class Pool(System):
    """For each question the first `depth` passages of several systems, and those that are judged, right or wrong.

    It has no order of its own: a reranker on top of it scores every one, so the task must not cut it (`whole`).
    """

    def __init__(self, systems: Sequence[System], depth: int) -> None:
        self.name = " + ".join(system.name for system in systems)
        self.settings: Mapping[str, Any] = {}
        self._systems = tuple(systems)
        self._depth = depth

    @staticmethod
    def whole(dataset: Dataset, *, show_progress: bool = False) -> Task:
        """Return the task of all judged questions that cuts no ranking."""
        return Task(dataset, len(dataset.corpus), show_progress=show_progress)

    def search(self, task: Task) -> Run:
        """Return the pool of each question, in the order of the passages' ids: equal pools are scored once."""
        below = Task(task.dataset, self._depth, show_progress=task.show_progress)
        runs = [below.run(system).rankings for system in self._systems]
        corpus, rankings = task.dataset.corpus, {}
        for query in task.query_ids:
            found = {name for run in runs if query in run for name in run[query].ids[: self._depth]}
            found.update(name for name in task.dataset.qrels[query] if name in corpus)
            names = tuple(sorted(found))
            rankings[query] = Ranking(names, tuple(float(-place) for place in range(len(names))))
        return Run(rankings)


def mine(dataset: Dataset, scores: Scores, rules: Rules) -> Mined:
    """Return the hard negatives of every judged question.

    A passage that is judged wrong (grade 0) is a negative whatever its score. One that is judged right never is, nor
    one that holds the text of a right passage, all of it or 80 %. Of negatives with equal texts one stays.

    Args:
        dataset: Questions, passages, judgements.
        scores: Of each question's candidates and right passages.
        rules: What a negative is.

    Raises:
        InputError: No question has a negative.
    """
    same, left = twins(dataset), Counter[str]()
    examples, without = [], []
    for query in dataset.judged:
        example = _example(dataset, query, scores.get(query, {}), rules, same, left)
        if example.right and example.negatives:
            examples.append(example)
        else:
            without.append(query)
    if not examples:
        raise InputError(
            f"None of {len(without)} questions has a negative: {left['close']} candidates score within a margin "
            f"of {rules.margin} of a right passage or above it, {left['same']} hold its text. Give a smaller "
            "--margin, a larger --depth or a better judge: --reranker NAME."
        )
    return Mined(tuple(examples), len(dataset.judged), left["same"], left["close"], tuple(without))


def _example(
    dataset: Dataset, query: str, scores: Mapping[str, float], rules: Rules, same: Twins, left: Counter[str]
) -> Example:
    grades = dataset.qrels[query]
    right = {name: scores[name] for name, grade in grades.items() if grade > 0 and name in scores}
    if not right:
        return Example(query, right, {})
    least = min(right.values())
    bound = least - rules.margin * (least - min(scores.values()))
    seen = {normalized(dataset.corpus[name].joined()) for name in right}
    negatives: dict[str, float] = {}
    names = [name for name in scores if grades.get(name, 0) <= 0]
    for name in sorted(order(names, [scores[name] for name in names]), key=lambda name: name not in grades):
        text = normalized(dataset.corpus[name].joined())
        if text in seen or name in same.get(query, {}):
            left["same"] += 1
        elif name not in grades and not scores[name] < bound:  # NaN is no score: left out
            left["close"] += 1
        elif len(negatives) < rules.number:
            negatives[name] = scores[name]
            seen.add(text)
    return Example(query, right, dict(sorted(negatives.items(), key=lambda pair: -pair[1])))
