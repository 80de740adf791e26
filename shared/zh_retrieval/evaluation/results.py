"""What an evaluation finds: numbers with their intervals, differences, what to take; and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zh_retrieval.evaluation.dataset import Dataset, Fault
from zh_retrieval.evaluation.run import Costs, Ranking

Verdict = Literal["pays", "better", "worse", "too small", "no difference"]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, repr=False)
class SystemResult:
    """One row: a system and what was measured.

    Attributes:
        name: How tables call it; unlike every other in the evaluation.
        below: Names of the systems that it stands on, the one that it reranks first; () of a first stage.
        settings: What it was made with.
        rankings: Query id -> ranking.
        per_query: Metric -> query id -> value, of every query that counts.
        metrics: Metric -> mean over the queries that count. One without results counts 0.
        intervals: Metric -> 95 % interval of the mean.
        costs: Time and memory.
        faults: What holds for this system alone: passages cut, unjudged passages in the top.
        sides: Names of the systems whose scores it sums; () for all but hybrids.
    """

    name: str
    below: tuple[str, ...]
    settings: Mapping[str, Any]
    rankings: Mapping[str, Ranking]
    per_query: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    costs: Costs
    faults: tuple[Fault, ...]
    sides: tuple[str, ...] = ()

    @property
    def base(self) -> str | None:
        """Return the name of the system that it reranks; None for a first stage."""
        return self.below[0] if self.below else None

    def __repr__(self) -> str:
        """Return name and means: the rankings would fill screens."""
        means = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return f"<SystemResult {self.name!r}: {means}>"


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
        extra_pairs: Of what reranks the baseline: pairs of question and passage that it reads more, a query. Else None.
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
    extra_pairs: float | None
    verdict: Verdict
    sentence: str
    sentence_zh: str


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What to take, and why.

    Attributes:
        take: Name of a system; None where nothing can be told, or there is nothing to choose from.
        tied: Names of the systems that the questions cannot tell from the best one, itself included; () if there are
            none.
        sentence: In one or two English sentences.
        sentence_zh: The same in Chinese.
    """

    take: str | None
    tied: tuple[str, ...]
    sentence: str
    sentence_zh: str


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Everything that was found; `print` it for a table, `to_json` for other programs.

    Attributes:
        dataset: What was evaluated on.
        main: The metric that systems are compared by.
        top_k: How many passages a ranking holds at most.
        seed: Of all resampling.
        results: A row for each system, in the order given.
        comparisons: Pairs of systems.
        conclusion: What to take, and why.
        faults: Of the data.
        sweep: What `--sweep` found; empty without it.
        asked: The measures that were asked for beside the standard ones.
        as_text: What `print` shows. What draws evaluations is above them, and is handed in by what makes them.
        as_html: What a notebook shows.
    """

    dataset: Dataset
    main: str
    top_k: int
    seed: int
    results: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    conclusion: Conclusion
    faults: tuple[Fault, ...]
    sweep: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    as_text: Callable[[Evaluation], str] = field(default=repr, compare=False)
    as_html: Callable[[Evaluation], str] | None = field(default=None, compare=False)

    def ranked(self) -> list[SystemResult]:
        """Return the results, the best first by the main metric; of equal ones in the order given."""
        return sorted(self.results, key=lambda result: -result.metrics[self.main])

    def loses(self) -> list[Fault]:
        """Return the faults by which something that was given or asked could not be used."""
        return [fault for fault in (*self.faults, *(f for r in self.results for f in r.faults)) if fault.loses]

    def __repr__(self) -> str:
        """Return what was measured in a line: the rankings would fill screens."""
        best = self.ranked()[0]
        return (
            f"<Evaluation on {self.dataset.name!r}: {len(self.results)} systems, {len(self.dataset.judged)} questions, "
            f"best {best.name!r} with {self.main} {best.metrics[self.main]:.3f}; print it for a table>"
        )

    def __str__(self) -> str:
        """Return the conclusion, the table, the comparisons and the faults as text."""
        return self.as_text(self)

    def _repr_html_(self) -> str | None:
        """Return the conclusion and the table for a notebook; None where it shows the text."""
        return self.as_html(self) if self.as_html else None

    def to_json(self) -> dict[str, Any]:
        """Return all but rankings, values of single queries and texts, for JSON. Two runs differ in `costs` alone.

        `dataset`: name, split, synthetic, queries, judged, passages. `main`, `top_k`, `seed`. `results`: a row for
        each system with name, base, sides, settings, metrics {metric: mean}, intervals {metric: [low, high]} (null: one
        query shows nothing), costs, faults.
        `comparisons`: the fields of `Comparison`; what its sentences and extra_ms say of time changes with `costs`.
        `conclusion`: the fields of `Conclusion`; it goes by time where quality does not tell.
        `faults`: the fields of `Fault`, of the data; those of a system are in its row. `sweep`: what --sweep found.
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
            "conclusion": _plain(asdict(self.conclusion)),
            "comparisons": [_plain(asdict(comparison)) for comparison in self.comparisons],
            "faults": [fault.to_json() for fault in self.faults],
            "sweep": _plain(self.sweep),
        }  # fmt: skip


def _row(result: SystemResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "base": result.base,
        "sides": list(result.sides),
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
