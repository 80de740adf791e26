"""Systems and a dataset to an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.comparison import compare
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.duplicates import twins
from zh_retrieval.evaluation.faults import Twins, data_faults, run_faults
from zh_retrieval.evaluation.metrics import MAIN, MEASURES, parse, per_query
from zh_retrieval.evaluation.results import Evaluation, SystemResult
from zh_retrieval.evaluation.statistics import intervals
from zh_retrieval.evaluation.sweep import sweep as tune
from zh_retrieval.evaluation.systems.base import System, Task


def evaluate_systems(
    dataset: Dataset,
    systems: Sequence[System],
    *,
    measures: Sequence[str] = MEASURES,
    main: str = MAIN,
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
        measures: Names of ir-measures.
        main: The measure by which systems are compared.
        top_k: How many passages a ranking holds at most; AP and R@100 see no more.
        seed: Of all resampling.
        sweep: Also try what users tune, see `zh_retrieval.evaluation.sweep`.
        show_progress: Show bars.

    Raises:
        ConfigError: A measure is unknown, two systems have one name, or there is no system.
        InputError: No query has a right answer.
    """
    checks.whole_number("top_k", top_k)
    measures = list(dict.fromkeys([main, *measures]))
    parse(measures)
    _check_names(systems)
    task = Task(dataset, top_k, show_progress=show_progress)
    if not task.query_ids:
        raise InputError(
            f"No query of {dataset.name} has a right answer: {len(dataset.queries)} queries, {len(dataset.qrels)} of "
            "them judged. Check that the ids of qrels are those of queries.jsonl."
        )
    alike = twins(dataset)
    results = [_result(system, task, measures, seed, alike) for system in systems]
    return Evaluation(
        dataset=dataset,
        main=main,
        top_k=top_k,
        seed=seed,
        results=tuple(results),
        comparisons=tuple(compare(results, task.query_ids, main, seed)),
        faults=tuple(data_faults(dataset, alike)),
        sweep=tune(task, systems, results, main) if sweep else {},
    )


def _check_names(systems: Sequence[System]) -> None:
    names = [system.name for system in systems]
    if not names:
        raise ConfigError("There is nothing to evaluate. Give at least one model.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two systems are called {name!r}. Give one of them another name.")


def _result(system: System, task: Task, measures: Sequence[str], seed: int, alike: Twins) -> SystemResult:
    run = task.run(system)
    values = per_query(task.dataset.qrels, task.query_ids, run.rankings, measures)
    return SystemResult(
        name=system.name,
        base=system.base.name if system.base else None,
        settings=dict(system.settings),
        rankings=run.rankings,
        per_query=values,
        metrics={name: sum(found.values()) / len(found) for name, found in values.items()},
        intervals=_intervals(values, task.query_ids, seed),
        costs=run.costs,
        faults=(*run.faults, *run_faults(task.dataset, task.query_ids, run.rankings, alike)),
    )


def _intervals(
    values: dict[str, dict[str, float]], query_ids: Sequence[str], seed: int
) -> dict[str, tuple[float, float]]:
    import numpy as np

    table = np.array([[found[query] for found in values.values()] for query in query_ids])
    low, high = intervals(table, seed).tolist()
    return {name: (low[index], high[index]) for index, name in enumerate(values)}
