"""BM25 and a model as one system: fused by the core's rule, beside its sides, with a weight that is chosen honestly."""

import numpy as np
import pytest

import zh_retrieval as zr
from tests.evaluation.fakes import Written
from tests.evaluation.tea import dataset
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.report.page import render
from zh_retrieval.evaluation.run import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.bm25 import BM25
from zh_retrieval.evaluation.systems.building import build
from zh_retrieval.evaluation.systems.dense import Dense
from zh_retrieval.evaluation.systems.hybrid import Hybrid
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.evaluation.weights import halves
from zh_retrieval.sparse.fusion import fuse
from zh_retrieval.testing import FakeEncoder, FakeReranker


class Scored(System):
    """Finds what a test writes down, with scores; counts how often it is asked."""

    def __init__(self, name, scores, ms=None):
        self.name, self.settings, self.asked = name, {}, 0
        self._scores, self._ms = scores, ms

    def search(self, task):
        self.asked += 1
        found = {}
        for query in task.query_ids:
            best = sorted(self._scores.get(query, {}).items(), key=lambda pair: -pair[1])[: task.depth]
            found[query] = Ranking(tuple(name for name, _ in best), tuple(score for _, score in best))
        return Run(found, Costs(ms_per_query=self._ms))


def sides(seed=0, queries=40, passages=60):
    """Return a dataset without words, a dense and a lexical side: each finds other right passages first."""
    rng = np.random.default_rng(seed)
    corpus = {f"d{n}": Passage(f"第{n}段") for n in range(passages)}
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(queries)}
    data = Dataset("两侧", {query: query for query in qrels}, corpus, qrels)
    scores = []
    for _ in range(2):
        noise = {query: dict(zip(corpus, rng.normal(size=passages), strict=True)) for query in qrels}
        for query, found in noise.items():
            found[f"d{query[1:]}"] += 2.0
        scores.append(noise)
    return data, Scored("dense", scores[0], ms=5.0), Scored("bm25", scores[1], ms=1.0)


def test_the_ranking_is_what_the_core_fuses_of_both_sides():
    data, dense, lexical = dataset(), Dense("模型", FakeEncoder, {}, Store(None)), BM25()
    task = Task(data, 7, depth=100)
    run = task.run(Hybrid("bm25+模型", dense, lexical, weight=0.3))
    assert all(len(task.deep(side).rankings["q0"].ids) == 50 for side in (dense, lexical))  # more than are shown
    for query in data.queries:
        first, second = (
            list(zip(found.ids, found.scores, strict=True))
            for found in (task.deep(side).rankings[query] for side in (dense, lexical))
        )
        expected = fuse(first, second, weight=0.3)[:7]
        assert list(zip(run.rankings[query].ids, run.rankings[query].scores, strict=True)) == [
            (found.id, found.score) for found in expected
        ]


@pytest.mark.parametrize("top_k", [5, 10, 100])
def test_sides_are_asked_once_and_as_deep_as_the_sum_looks_whatever_is_shown(top_k):
    data, dense, lexical = sides()
    systems = [dense, lexical, Hybrid("h", dense, lexical), Hybrid("g", dense, lexical, weight=0.2)]
    shown = evaluate_systems(data, systems, top_k=top_k)
    assert (dense.asked, lexical.asked) == (1, 1)
    whole = evaluate_systems(data, systems, top_k=100)
    for result, other in zip(shown.results, whole.results, strict=True):
        assert {q: r.ids for q, r in result.rankings.items()} == {q: r.ids[:top_k] for q, r in other.rankings.items()}


def test_the_difference_to_both_sides_is_in_text_json_page_and_conclusion():
    data, dense, lexical = sides()
    evaluation = evaluate_systems(data, [lexical, dense, Hybrid("bm25+dense", dense, lexical)], top_k=50)
    hybrid = evaluation.results[2]
    assert hybrid.sides == ("bm25", "dense")
    assert hybrid.costs.ms_per_query > 6.0
    found = {(c.system, c.baseline): c for c in evaluation.comparisons}
    for side, result in zip(("bm25", "dense"), evaluation.results, strict=False):
        comparison = found["bm25+dense", side]
        low, high = comparison.interval
        assert low <= comparison.difference <= high
        assert comparison.difference == pytest.approx(hybrid.metrics["nDCG@10"] - result.metrics["nDCG@10"])
        said = f"{comparison.difference:+.3f} ({low:+.3f} to {high:+.3f}) against {side}"
        assert said in evaluation.conclusion.sentence
        assert f"对比 {side} {comparison.difference:+.3f}" in evaluation.conclusion.sentence_zh
        for shown in (str(evaluation), render(evaluation, "en")):
            assert said in shown
            assert comparison.sentence in shown
    assert evaluation.to_json()["results"][2]["sides"] == ["bm25", "dense"]


def test_a_hybrid_that_is_worse_is_still_the_one_that_is_judged():
    data, dense, _ = sides()
    noise = Scored("noise", {query: {f"d{n}": float(-n) for n in range(60)} for query in data.queries})
    comparisons = evaluate_systems(data, [noise, dense, Hybrid("h", dense, noise)], top_k=50).comparisons
    assert {(c.system, c.baseline) for c in comparisons} == {("h", "noise"), ("h", "dense"), ("dense", "noise")}


def test_one_question_shows_nothing_of_sides_either():
    data, dense, lexical = sides(queries=1)
    evaluation = evaluate_systems(data, [lexical, dense, Hybrid("h", dense, lexical)], top_k=50)
    assert "nan" not in evaluation.conclusion.sentence


def test_a_side_that_finds_nothing_leaves_the_other_its_order():
    data, dense, _ = sides()
    nothing = Scored("bm25", {})
    _, plain, hybrid = evaluate_systems(data, [nothing, dense, Hybrid("h", dense, nothing)], top_k=50).results
    assert {q: r.ids for q, r in hybrid.rankings.items()} == {q: r.ids for q, r in plain.rankings.items()}


def test_reranking_works_on_the_fused_list():
    data, dense, lexical = dataset(), Dense("模型", FakeEncoder, {}, Store(None)), BM25()
    hybrid = Hybrid("bm25+模型", dense, lexical)
    above = Reranked("bm25+模型 + 重排", hybrid, FakeReranker, {}, Store(None), depth=4)
    *_, below, top = evaluate_systems(data, [lexical, dense, hybrid, above], top_k=20).results
    for query in data.queries:
        assert set(top.rankings[query].ids[:4]) == set(below.rankings[query].ids[:4])
        assert top.rankings[query].ids[4:] == below.rankings[query].ids[4:]


# --- what is written -----------------------------------------------------------------------------------------------


def built(*models, bm25=True):
    return build(models, [], {}, Store(None), depth=5, bm25=bm25)


def test_a_hybrid_stands_beside_its_sides_which_are_shared():
    found = built("bm25+e5-small-zh", bm25=False)
    assert [system.name for system in found] == ["bm25", "e5-small-zh", "bm25+e5-small-zh"]
    assert found[2].sides == (found[0], found[1])
    assert found[2].settings["weight"] == 0.5
    several = built("bm25+bge-base-zh,weight=0.3,name=A", "bge-base-zh-v1.5,name=B", "bm25+bge-base-zh-v1.5,weight=1")
    assert [system.name for system in several] == ["bm25", "A", "B", "bm25+bge-base-zh-v1.5 (weight=1)"]
    assert several[1].sides == several[3].sides == (several[0], several[2])
    assert [system.weight for system in (several[1], several[3])] == [0.3, 1.0]


def test_settings_go_to_the_side_that_has_them():
    lexical, dense, hybrid = built("bm25+bge-base-zh=/a,weight=0.6,k1=0.9,title=off,quantization=int8")
    assert lexical.name == "bm25 (k1=0.9, title=off)"
    assert (lexical.settings["k1"], lexical.settings["title"]) == (0.9, False)
    assert dense.name == "bge-base-zh-v1.5 (title=off, quantization=int8)"
    assert hybrid.name == "bm25+bge-base-zh-v1.5 (weight=0.6, k1=0.9, title=off, quantization=int8)"


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ("bm25+", zr.ConfigError, "no hybrid"),
        ("bm25+bm25", zr.ConfigError, "no hybrid"),
        ("e5-small-zh+bm25", zr.ConfigError, r"Expected bm25\+NAME"),
        ("bm25+bge-base+e5-small-zh", zr.ConfigError, "no hybrid"),
        ("bm25+bge-bas-zh", zr.UnknownModelError, "Did you mean"),
        ("bm25+bge-reranker-large", zr.WrongTaskError, "is for reranking"),
        ("bm25+e5-small-zh,weight=1.5", zr.ConfigError, "weight=1.5 must be the dense side's share"),
        ("bm25+e5-small-zh,weight=nan", zr.ConfigError, "weight=nan must be the dense side's share"),
        ("bm25+e5-small-zh,weight=half", zr.ConfigError, "weight='half' is no number"),
        ("e5-small-zh,weight=0.5", zr.ConfigError, "has no setting 'weight'"),
    ],
)
def test_what_is_no_hybrid_is_refused_before_anything_is_loaded(written, error, message):
    with pytest.raises(error, match=message):
        built(written)


# --- the weight ----------------------------------------------------------------------------------------------------


def test_a_weight_is_chosen_on_one_half_and_measured_on_the_other():
    data, dense, lexical = sides(queries=41)
    hybrid = Hybrid("h", dense, lexical, weight=0.5)
    evaluation = evaluate_systems(data, [lexical, dense, hybrid], top_k=50, sweep=True, seed=3)
    parts = dict(zip(("half_1", "half_2"), halves(list(data.queries), 3), strict=True))
    assert sorted(parts["half_1"] + parts["half_2"]) == sorted(data.queries)
    assert [len(part) for part in parts.values()] == [20, 21]
    per_query = {
        weight / 10: evaluate_systems(data, [Hybrid("h", dense, lexical, weight=weight / 10)], top_k=50).results[0]
        for weight in range(11)
    }

    def mean(weight, half):
        values = per_query[weight].per_query["nDCG@10"]
        return np.mean([values[query] for query in parts[half]])

    for row in evaluation.sweep["weight"]:
        assert [row["half_1"], row["half_2"]] == pytest.approx([mean(row["weight"], half) for half in parts])
    rows = evaluation.sweep["weight_by_halves"]
    assert [(row["chosen_on"], row["measured_on"]) for row in rows] == [("half_1", "half_2"), ("half_2", "half_1")]
    for row in rows:
        here, there = row["chosen_on"], row["measured_on"]
        assert mean(row["weight"], here) == pytest.approx(max(mean(weight, here) for weight in per_query))
        assert row["nDCG@10"] == pytest.approx(mean(row["weight"], there))
        assert row["gain"] == pytest.approx(mean(row["weight"], there) - mean(0.5, there))
        assert row["low"] <= row["gain"] <= row["high"]
    assert "weight_by_halves" in str(evaluation)
    assert "用一半问题选权重" in render(evaluation, "zh")


def test_of_weights_that_are_equally_good_the_given_one_stays():
    data, dense, _ = sides()
    same = Scored("bm25", dense._scores)
    evaluation = evaluate_systems(data, [same, dense, Hybrid("h", dense, same, weight=0.4)], top_k=50, sweep=True)
    assert [row["weight"] for row in evaluation.sweep["weight_by_halves"]] == [0.4, 0.4]
    assert all(row["gain"] == 0 for row in evaluation.sweep["weight_by_halves"])


def test_few_questions_choose_no_weight():
    data, dense, lexical = sides(queries=3)
    evaluation = evaluate_systems(data, [lexical, dense, Hybrid("h", dense, lexical)], top_k=50, sweep=True)
    assert evaluation.sweep["weight"] == evaluation.sweep["weight_by_halves"] == []


def test_sums_of_z_scores_get_no_threshold():
    data, dense, lexical = sides()
    evaluation = evaluate_systems(data, [lexical, dense, Hybrid("h", dense, lexical)], top_k=50, sweep=True)
    assert [row["system"] for row in evaluation.sweep["score_threshold"]] == ["bm25", "dense"]


def test_a_system_of_ones_own_that_knows_no_depth_can_be_a_first_stage():
    data = dataset()
    own = Written("own", {query: [f"d{query[1:]}-{p}" for p in range(5)] for query in data.queries})
    assert evaluate_systems(data, [own], top_k=3).results[0].rankings["q0"].ids == ("d0-0", "d0-1", "d0-2")
