"""What an evaluation finds: rankings, numbers with their intervals, differences, costs; and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zh_retrieval.evaluation.dataset import Dataset, Fault

Verdict = Literal["pays", "better", "worse", "too small", "no difference"]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a system found for one query, best first; equal scores by id, the greater first, as trec_eval sorts."""

    ids: tuple[str, ...]
    scores: tuple[float, ...]

    def by_id(self) -> dict[str, float]:
        """Return id -> score, best first."""
        return dict(zip(self.ids, self.scores, strict=True))


@dataclass(frozen=True, slots=True)
class Costs:
    """What a system costs on the machine that ran it; None where it was not measured. The only part that changes.

    Attributes:
        passages_per_second: Passages indexed a second.
        ms_per_query: Milliseconds from a question to its ranking, one at a time, the median; every stage counts.
        index_bytes: Size of what is searched.
        memory_bytes: Most memory that the process held while the system ran.
    """

    passages_per_second: float | None = None
    ms_per_query: float | None = None
    index_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What a system gives back: a ranking for every query that was asked, what it cost, what was found on the way."""

    rankings: Mapping[str, Ranking]
    costs: Costs = field(default_factory=Costs)
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One row: a system and what was measured.

    Attributes:
        name: How tables call it; unlike every other in the evaluation.
        base: Name of the system that it reranks; None for a first stage.
        settings: What it was made with.
        rankings: Query id -> ranking.
        per_query: Metric -> query id -> value, of every query that counts.
        metrics: Metric -> mean over the queries that count. One without results counts 0.
        intervals: Metric -> 95 % interval of the mean.
        costs: Time and memory.
        faults: What holds for this system alone: passages cut, unjudged passages in the top.
    """

    name: str
    base: str | None
    settings: Mapping[str, Any]
    rankings: Mapping[str, Ranking]
    per_query: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    costs: Costs
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system beside another, on the same queries.

    Attributes:
        system: Name of the one that is judged.
        baseline: Name of the one it is compared with.
        metric: Which metric.
        difference: Mean of `system` minus mean of `baseline`.
        interval: 95 % interval of the difference, for this pair alone.
        p_value: Of a paired randomisation test.
        p_adjusted: The same, after Holm's correction for all comparisons of the evaluation.
        better: Queries on which `system` is better.
        worse: Queries on which it is worse.
        equal: Queries without a difference.
        extra_ms: Milliseconds more a query; None if not measured.
        verdict: "pays": a reranker makes it better; "better"; "worse"; "too small": certain, and too small to matter;
            "no difference": none that these queries can show, the other comparisons taken into account.
        sentence: The verdict in one English sentence.
        sentence_zh: The same in Chinese.
    """

    system: str
    baseline: str
    metric: str
    difference: float
    interval: Interval
    p_value: float
    p_adjusted: float
    better: int
    worse: int
    equal: int
    extra_ms: float | None
    verdict: Verdict
    sentence: str
    sentence_zh: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found.

    Attributes:
        dataset: What was evaluated on.
        main: The metric that systems are compared by.
        top_k: How many passages a ranking holds at most.
        seed: Of all resampling.
        results: A row for each system, in the order given.
        comparisons: Pairs of systems.
        faults: Of the data.
        sweep: What `--sweep` found; empty without it.
    """

    dataset: Dataset
    main: str
    top_k: int
    seed: int
    results: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    faults: tuple[Fault, ...]
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all but rankings, values of single queries and texts, for JSON. Two runs differ in `costs` alone.

        `dataset`: name, split, synthetic, queries, judged, passages. `main`, `top_k`, `seed`. `results`: a row for
        each system with name, base, settings, metrics {metric: mean}, intervals {metric: [low, high]} (null: one query
        shows nothing), costs, faults.
        `comparisons`: the fields of `Comparison`; what its sentences and extra_ms say of time changes with `costs`.
        `faults`: the fields of `Fault`. `sweep`: what --sweep found.
        """
        data = self.dataset
        return {
            "dataset": {
                "name": data.name, "split": data.split, "synthetic": data.synthetic, "queries": len(data.queries),
                "judged": len(data.judged), "passages": len(data.corpus),
            },
            "main": self.main,
            "top_k": self.top_k,
            "seed": self.seed,
            "results": [_row(result) for result in self.results],
            "comparisons": [_plain(asdict(comparison)) for comparison in self.comparisons],
            "faults": [fault.to_json() for fault in self.faults],
            "sweep": _plain(self.sweep),
        }  # fmt: skip


def _row(result: SystemResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "base": result.base,
        "settings": _plain(result.settings),
        "metrics": _plain(result.metrics),
        "intervals": _plain(result.intervals),
        "costs": _plain(asdict(result.costs)),
        "faults": [fault.to_json() for fault in result.faults],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None  # JSON has no "not a number"
    return value
