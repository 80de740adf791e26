"""Numbers against a computation by hand and against trec_eval's code, on ties, no answers and graded labels."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import zh_retrieval as zr
from tests.evaluation import tea
from tests.evaluation.fakes import Written, ranking
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.metrics import per_query
from zh_retrieval.evaluation.report.runs import trec_lines
from zh_retrieval.evaluation.run import Ranking

QRELS = {
    "graded": {"a": 3, "b": 1, "c": 0, "gone": 2},  # nobody can find "gone"
    "late": {"k": 1},
    "empty": {"a": 1},
    "many": {f"d{n}": 1 for n in range(20)},
}
RANKINGS = {
    "graded": ranking("c", "b", "x", "a"),
    "late": ranking(*[f"d{n}" for n in range(10)], "k"),  # the answer is eleventh
    "empty": ranking(),
    "many": ranking(*[f"d{n}" for n in range(5)]),
}


def dcg(gains):
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))


def test_values_are_those_of_a_computation_by_hand():
    values = per_query(QRELS, list(QRELS), RANKINGS)
    ideal_many = dcg([1] * 10)
    expected = {
        "nDCG@10": [dcg([0, 1, 0, 3]) / dcg([3, 2, 1]), 0, 0, dcg([1] * 5) / ideal_many],
        "R@10": [2 / 3, 0, 0, 5 / 20],
        "R@100": [2 / 3, 1, 0, 5 / 20],
        "RR@10": [1 / 2, 0, 0, 1],
        "AP": [(1 / 2 + 2 / 4) / 3, 1 / 11, 0, 5 / 20],
        "Success@1": [0, 0, 0, 1],
        "Success@5": [1, 0, 0, 1],
        "Success@10": [1, 0, 0, 1],
    }
    for measure, wanted in expected.items():
        assert [values[measure][query] for query in QRELS] == pytest.approx(wanted, abs=1e-6), measure


def test_ties_break_as_trec_eval_breaks_them():
    import pytrec_eval

    from zh_retrieval.evaluation.systems.search import order

    scores = {"a": 0.5, "c": 0.5, "b": 0.5, "z": 0.1, "丙": 0.5, "甲": 0.5}
    sorted_ids = order(list(scores), list(scores.values()))
    assert sorted_ids == ["甲", "丙", "c", "b", "a", "z"]  # of equal scores the greater id first
    for right in scores:
        qrels = {"q": {right: 1}}
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank"}).evaluate({"q": scores})["q"]
        ours = per_query(qrels, ["q"], {"q": ranking(*sorted_ids)})
        assert ours["nDCG@10"]["q"] == pytest.approx(theirs["ndcg_cut_10"])
        assert ours["RR@10"]["q"] == pytest.approx(theirs["recip_rank"])


@pytest.mark.parametrize("right", ["a", "b", "c", "d"])
def test_a_written_run_has_no_ties_that_another_program_breaks_otherwise(tmp_path, right):
    import ir_measures

    rankings = {"q": Ranking(("d", "a", "c", "b"), (0.25, 0.25, 0.25, -1.0))}
    lines = list(trec_lines(SimpleNamespace(name="mit Lücke", rankings=rankings)))
    scores = [float(line.split()[4]) for line in lines]
    assert scores == sorted(set(scores), reverse=True)
    np.testing.assert_allclose(scores, rankings["q"].scores, rtol=1e-6)
    (tmp_path / "run").write_text("\n".join(lines), encoding="utf-8")
    measures = [ir_measures.parse_measure(name) for name in ("RR@10", "nDCG@10", "AP")]
    theirs = ir_measures.calc_aggregate(
        measures, {"q": {right: 1}}, list(ir_measures.read_trec_run(str(tmp_path / "run")))
    )
    ours = per_query({"q": {right: 1}}, ["q"], rankings)
    for measure, value in theirs.items():
        assert ours[str(measure)]["q"] == pytest.approx(value), measure


def test_the_mean_is_over_all_queries_with_an_answer_and_that_of_ir_measures():
    import ir_measures

    corpus = {name: Passage(f"段落{name}") for name in ("a", "b", "c", "x", "k", *QRELS["many"])}
    queries = {query: f"问题{query}" for query in (*QRELS, "no judgement", "no answer")}
    dataset = Dataset("小例", queries, corpus, {**QRELS, "no answer": {"a": 0}})
    rankings = {query: list(found.ids) for query, found in RANKINGS.items()}
    row = evaluate_systems(dataset, [Written("手写", rankings)]).results[0]
    run = {query: dict(zip(found.ids, found.scores, strict=True)) for query, found in RANKINGS.items()}
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in row.metrics], QRELS, run)
    assert row.metrics == pytest.approx({str(measure): value for measure, value in theirs.items()})
    assert set(row.per_query["nDCG@10"]) == set(QRELS)


def test_a_measure_that_does_not_exist_is_refused_with_the_names_there_are():
    with pytest.raises(zr.ConfigError, match=r"nDGC@10.*nDCG@10"):
        per_query(QRELS, list(QRELS), RANKINGS, ["nDGC@10"])


def test_a_system_that_finds_nothing_at_all_has_0():
    values = per_query(QRELS, list(QRELS), dict.fromkeys(QRELS, ranking()))
    assert all(found == dict.fromkeys(QRELS, 0.0) for found in values.values())


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("NDCG@10", "nDCG@10"), ("MAP", "AP"), ("MRR@10", "RR@10"), ("Recall@10", "R@10"), ("Recall@100", "R@100"),
     ("Success(rel=1)@5", "Success@5"), ("nDCG(dcg='log2')@10", "nDCG@10"), ("AP(rel=1)", "AP"), ("P@5\n", "P@5")],
)  # fmt: skip
def test_another_spelling_of_a_measure_is_that_measure(spelled, name):
    """A measure given twice once made every value of its first spelling 0."""
    data = tea.dataset()
    systems = [Written("all", {query: list(data.corpus) for query in data.queries})]
    plain = evaluate_systems(data, systems).results[0]
    (row,) = evaluate_systems(data, systems, measures=[spelled, name, spelled]).results
    assert list(row.metrics) == list(dict.fromkeys([*plain.metrics, name]))
    assert {known: row.metrics[known] for known in plain.metrics} == plain.metrics
    assert plain.metrics["nDCG@10"] > 0
    assert evaluate_systems(data, systems, main=spelled).main == name
    for known, values in per_query(data.qrels, data.judged, row.rankings, [spelled, name]).items():
        assert values == row.per_query[name], known


@pytest.mark.parametrize(
    ("measure", "why"),
    [("P", "it needs cutoff"), ("Success", "it needs cutoff"), ("P@0", "cutoff of 0"), ("P@-1", "no measure"),
     ("R@10.5", "cutoff=10.5"), ("IPrec", "it needs recall"), ("INST", "it needs"), ("nDCG(foo=1)@5", "foo"),
     ("P(rel='x')@5", "rel='x'"), ("RR(rel=0)", "cannot be computed"), ("RBP", "cannot be computed"),
     ("NRBP", "pip install"), ("NumRet", "counts over all"), ("nDGC@10", "Use names"), ("ndcg@10", "Did you mean nDCG"),
     ("", "no measure"), ("(" * 3000, "no measure"), ("x" * 9999, "no measure"), ("__import__('os')", "no measure"),
     ("R@101", "top_k=100 keeps 100")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_is_searched(measure, why):
    class Untouched(Written):
        def search(self, task):
            raise AssertionError("searched")

    with pytest.raises(zr.ConfigError, match=re.escape(why)) as raised:
        evaluate_systems(tea.dataset(), [Untouched("x", {})], measures=[measure])
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("top_k", [1, 5, 10, 50, 100, 1000])
def test_no_measure_looks_deeper_than_the_rankings(top_k):
    data = tea.dataset()
    found = evaluate_systems(data, [Written("all", {query: list(data.corpus) for query in data.queries})], top_k=top_k)
    names = list(found.results[0].metrics)
    assert names[0] == found.main == f"nDCG@{min(10, top_k)}"
    assert all(int(name.partition("@")[2] or 0) <= top_k for name in names)
    assert ("AP" in names) == ("R@100" in names) == (top_k >= 100)
    assert (f"AP@{top_k}" in names) == (top_k < 100)
