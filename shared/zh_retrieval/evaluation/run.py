"""What a system gives back: a ranking for every query, and what finding them cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zh_retrieval.evaluation.dataset import Fault


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a system found for one query, best first; equal scores by id, the greater first, as trec_eval sorts."""

    ids: tuple[str, ...]
    scores: tuple[float, ...]

    def by_id(self) -> dict[str, float]:
        """Return id -> score, best first."""
        return dict(zip(self.ids, self.scores, strict=True))

    def first(self, count: int) -> Ranking:
        """Return the best `count` of it."""
        return self if len(self.ids) <= count else Ranking(self.ids[:count], self.scores[:count])


@dataclass(frozen=True, slots=True)
class Costs:
    """What a system costs on the machine that ran it; None where it was not measured. The only part that changes.

    Attributes:
        passages_per_second: Passages indexed a second.
        ms_per_query: Milliseconds from a question to its ranking, one at a time, the median; every stage counts.
            Vectors are searched in memory, one after the other; beyond a gigabyte a part is, and its time scaled up.
        index_bytes: Size of what is searched.
        memory_bytes: Most memory that the process held while the system ran, all that it had loaded before included.
        earlier: True if some of it was measured in an earlier run, under the same conditions on this machine.
        pairs_per_query: Pairs of question and passage that rerankers read for one question, the mean; every step
            counts. None of a first stage.
    """

    passages_per_second: float | None = None
    ms_per_query: float | None = None
    index_bytes: int | None = None
    memory_bytes: int | None = None
    earlier: bool = False
    pairs_per_query: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """What a system gives back: a ranking for every query that was asked, what it cost, what was found on the way."""

    rankings: Mapping[str, Ranking]
    costs: Costs = field(default_factory=Costs)
    faults: tuple[Fault, ...] = ()

    def __repr__(self) -> str:
        """Return how much was found: the rankings would fill screens."""
        return f"<Run of {len(self.rankings)} queries, {self.costs}>"
