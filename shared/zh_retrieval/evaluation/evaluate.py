"""Systems and a dataset to an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.comparison import compare
from zh_retrieval.evaluation.conclusion import conclude
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.faults.duplicates import Twins, twins
from zh_retrieval.evaluation.faults.finding import data_faults, run_faults
from zh_retrieval.evaluation.metrics import check_computable, names_of, per_query, standard
from zh_retrieval.evaluation.report.page import fragment
from zh_retrieval.evaluation.report.terminal import shown
from zh_retrieval.evaluation.results import Evaluation, SystemResult
from zh_retrieval.evaluation.statistics import intervals
from zh_retrieval.evaluation.sweep import sweep as tune
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.hybrid import Hybrid
from zh_retrieval.evaluation.systems.reranked import Reranked


def evaluate_systems(
    dataset: Dataset,
    systems: Sequence[System],
    *,
    measures: Sequence[str] = (),
    main: str | None = None,
    top_k: int = 100,
    seed: int = 0,
    sweep: bool = False,
    show_progress: bool = False,
) -> Evaluation:
    """Return what every system finds on the dataset, how good that is, how sure, and what it costs.

    The mean is over the queries with a right answer, whether or not a system found anything for them.

    Args:
        dataset: Questions, passages and judgements.
        systems: What is measured, in the order of the report.
        measures: Names of ir-measures, beside the standard ones: those of `MEASURES` that `top_k` passages can have.
        main: The measure by which systems are compared; nDCG@10 by default, of shorter rankings nDCG@`top_k`.
        top_k: How many passages a ranking holds at most; AP sees no more.
        seed: Of all resampling, 0 or more.
        sweep: Also try what users tune, see `zh_retrieval.evaluation.sweep`.
        show_progress: Show bars.

    Raises:
        ConfigError: A measure cannot be computed, two systems have one name, there is no system, or more passages are
            reranked than a ranking holds.
        InputError: No query has a right answer.
    """
    checks.whole_number("top_k", top_k, "a positive whole number")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed={seed!r} must be a whole number of at least 0.")
    asked = names_of(measures, top_k)
    measures = names_of([main or standard(top_k)[0], *standard(top_k), *asked], top_k)
    main = measures[0]
    _check_systems(systems, top_k)
    task = Task(dataset, top_k, depth=_depth(systems), show_progress=show_progress)
    if not task.query_ids:
        raise InputError(_nothing_judged(dataset))
    check_computable([name for name in measures if name not in standard(top_k)], dataset.qrels, task.query_ids)
    alike = twins(dataset)
    results = [_result(system, task, measures, seed, alike) for system in systems]
    comparisons = compare(results, task.query_ids, main, seed)
    return Evaluation(
        dataset=dataset,
        main=main,
        top_k=top_k,
        seed=seed,
        results=tuple(results),
        comparisons=tuple(comparisons),
        conclusion=conclude(results, comparisons, main, queries=len(task.query_ids), synthetic=dataset.synthetic),
        faults=tuple(data_faults(dataset, alike)),
        sweep=tune(task, systems, results, main, seed) if sweep else {},
        asked=tuple(asked),
        as_text=shown,
        as_html=fragment,
    )


def _nothing_judged(dataset: Dataset) -> str:
    """Return why there is nothing to measure, with ids of both sides to be compared."""
    asked, judged = (", ".join(map(repr, list(side)[:3])) or "none" for side in (dataset.queries, dataset.qrels))
    left_out = "".join(f" {fault.count} of {fault.total} rows: {fault.message}" for fault in dataset.faults)
    return (
        f"No query of {dataset.name} has a right answer: {len(dataset.queries)} queries ({asked}), "
        f"{len(dataset.qrels)} judged ({judged}). The ids of both must be the same, and a grade above 0.{left_out}"
    )


def _check_systems(systems: Sequence[System], top_k: int) -> None:
    names = [system.name for system in systems]
    if not names:
        raise ConfigError("There is nothing to evaluate. Give at least one model.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two systems are called {name!r}. Give one of them another name.")
    for system in systems:
        if isinstance(system, Reranked) and system.depth > top_k:
            raise ConfigError(
                f"{system.name} reranks {system.depth} passages, and top_k={top_k} keeps {top_k} of a ranking. Rerank "
                "fewer (--rerank-depth), or keep more (--top-k)."
            )


def _depth(systems: Sequence[System]) -> int:
    """Return how deep the deepest hybrid looks, 0 if there is none."""
    return max((system.depth for system in systems if isinstance(system, Hybrid)), default=0)


def _result(system: System, task: Task, measures: Sequence[str], seed: int, alike: Twins) -> SystemResult:
    run = task.run(system)
    values = per_query(task.dataset.qrels, task.query_ids, run.rankings, measures)
    return SystemResult(
        name=system.name,
        below=tuple(_below(system)),
        settings=dict(system.settings),
        rankings=run.rankings,
        per_query=values,
        metrics={name: sum(found.values()) / len(found) for name, found in values.items()},
        intervals=_intervals(values, task.query_ids, seed),
        costs=run.costs,
        faults=(*run.faults, *run_faults(task.dataset, task.query_ids, run.rankings, alike)),
        sides=tuple(side.name for side in system.sides),
    )


def _below(system: System) -> Iterator[str]:
    while system.base is not None:
        system = system.base
        yield system.name


def _intervals(
    values: dict[str, dict[str, float]], query_ids: Sequence[str], seed: int
) -> dict[str, tuple[float, float]]:
    import numpy as np

    table = np.array([[found[query] for found in values.values()] for query in query_ids])
    low, high = intervals(table, seed).tolist()
    return {name: (low[index], high[index]) for index, name in enumerate(values)}
