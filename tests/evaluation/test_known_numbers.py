"""CMRC 2018 as passage retrieval: known numbers. Not ours to ship: ZH_RETRIEVAL_CMRC names its folder."""

import os
from pathlib import Path

import ir_measures
import pytest

from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.reading.read import read_dataset
from zh_retrieval.evaluation.report.runs import write_runs
from zh_retrieval.evaluation.systems.building import build
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.testing import FakeReranker

FOLDER = os.environ.get("ZH_RETRIEVAL_CMRC")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER, reason="ZH_RETRIEVAL_CMRC names no folder")]


def test_the_builtin_model_bm25_and_a_reranked_run_give_the_known_numbers(tmp_path):
    dataset = read_dataset(Path(str(FOLDER)))
    assert dataset.faults == ()
    flags = {"device": "cpu", "dtype": "float32"}
    models = ["bm25,title=off", "e5-small-zh", "e5-small-zh,title=off", "bm25+e5-small-zh"]
    systems = build(models, [], flags, Store(tmp_path / "cache"), depth=50, bm25=False)
    systems.append(Reranked("bm25 + 字", systems[0], FakeReranker, {}, Store(None), depth=20))
    evaluation = evaluate_systems(dataset, systems)
    found = {result.name: round(result.metrics["nDCG@10"], 3) for result in evaluation.results[:5]}
    assert found == {
        "bm25 (title=off)": 0.888, "e5-small-zh": 0.922, "e5-small-zh (title=off)": 0.893, "bm25": 0.925,
        "bm25+e5-small-zh": 0.952,
    }  # fmt: skip
    gain = next(c for c in evaluation.comparisons if (c.system, c.baseline) == ("bm25+e5-small-zh", "bm25"))
    assert gain.interval[0] > 0.015
    qrels = list(ir_measures.read_trec_qrels(_trec_qrels(tmp_path, dataset)))
    measures = [ir_measures.parse_measure(name) for name in evaluation.results[0].metrics]
    runs = [file for file in write_runs(evaluation, tmp_path / "runs") if file.suffix == ".trec"]
    for result, file in zip(evaluation.results, runs, strict=True):
        theirs = ir_measures.calc_aggregate(measures, qrels, list(ir_measures.read_trec_run(str(file))))
        assert result.metrics == pytest.approx({str(measure): value for measure, value in theirs.items()})


def _trec_qrels(folder, dataset):
    file = folder / "qrels.trec"
    rows = (f"{query} 0 {name} {grade}\n" for query, grades in dataset.qrels.items() for name, grade in grades.items())
    file.write_text("".join(rows), encoding="utf-8")
    return str(file)
