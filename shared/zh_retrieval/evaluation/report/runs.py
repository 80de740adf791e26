"""Rankings and values of single queries as files for other programs: TREC runs and JSONL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.results import Evaluation, SystemResult
from zh_retrieval.files.whole import write_whole


def write_runs(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Return the files written: `NAME.trec` and `NAME.jsonl` for each system.

    A line of the run is `query Q0 passage rank score system`; a line of JSONL is {"id", "query", "metrics", "hits"},
    the hits with id, score and grade (null: unjudged).
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, result in enumerate(evaluation.results, 1):
        name = f"{number:02d}-{re.sub(r'[^0-9A-Za-z.+-]+', '-', result.name).strip('-')[:80]}"
        for suffix, lines in ((".trec", trec_lines(result)), (".jsonl", _json_lines(result, evaluation.dataset))):
            written.append(folder / f"{name}{suffix}")
            write_whole(written[-1], partial(_write_lines, lines))
    return written


def _write_lines(lines: Iterator[str], file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(line + "\n" for line in lines)


def trec_lines(result: SystemResult) -> Iterator[str]:
    """Yield the lines of a TREC run; nine digits give a float32 back exactly.

    Programs sort by score and break ties in different ways: of equal scores the later one is a last bit smaller.
    """
    tag = re.sub(r"\s+", "-", result.name)
    for query, ranking in result.rankings.items():
        above = np.float32(np.inf)
        for rank, (name, score) in enumerate(zip(ranking.ids, ranking.scores, strict=True), 1):
            above = min(np.float32(score), np.nextafter(above, np.float32(-np.inf)))
            yield f"{query} Q0 {name} {rank} {above:.9g} {tag}"


def _json_lines(result: SystemResult, dataset: Dataset) -> Iterator[str]:
    for query, ranking in result.rankings.items():
        grades = dataset.qrels[query]
        yield json.dumps(
            {
                "id": query,
                "query": dataset.queries[query],
                "metrics": {metric: round(values[query], 6) for metric, values in result.per_query.items()},
                "hits": [
                    {"id": name, "score": score, "grade": grades.get(name)}
                    for name, score in zip(ranking.ids, ranking.scores, strict=True)
                ],
            },
            ensure_ascii=False,
        )
