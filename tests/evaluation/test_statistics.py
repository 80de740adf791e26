"""Intervals cover what they claim to cover, and chance is not called a difference."""

import numpy as np
import pytest

from tests.evaluation.fakes import Written
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.statistics import holm, intervals, randomisation

VALUES = np.array([0, 0, 0, 1 / np.log2(4), 1 / np.log2(3), 1, 1, 1])  # of nDCG with one right answer; skewed


def simulated(queries, repetitions, seed):
    """Return (Q, repetitions) differences of two systems that mostly agree, and their true mean."""
    rng = np.random.default_rng(seed)
    first = rng.choice(VALUES, (queries, repetitions))
    again = rng.choice(VALUES, (queries, repetitions))
    moved = rng.random((queries, repetitions)) < 0.3
    gain = 0.05 * (rng.random((queries, repetitions)) < 0.5)
    return np.where(moved, again, first) + gain - first, 0.025


@pytest.mark.parametrize("queries", [50, 300])
def test_intervals_hold_the_true_difference_95_times_of_100(queries):
    differences, truth = simulated(queries, 4000, seed=queries)
    low, high = intervals(differences, seed=1, resamples=2000)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.93 <= covered <= 0.97


def test_intervals_of_a_mean_cover_it_as_well():
    values = np.random.default_rng(5).choice(VALUES, (100, 4000))
    low, high = intervals(values, seed=1, resamples=2000)
    assert 0.93 <= ((low <= VALUES.mean()) & (VALUES.mean() <= high)).mean() <= 0.97


def test_intervals_are_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=(400, 1))
    low, high = intervals(values, seed=0)[:, 0]
    assert high - low == pytest.approx(2 * 1.966 * values.std(ddof=1) / 20, rel=0.05)


def test_one_query_has_no_interval():
    assert np.isnan(intervals(np.ones((1, 3)), seed=0)).all()


def test_the_randomisation_test_rejects_chance_one_time_in_twenty():
    rng = np.random.default_rng(3)
    p_values = randomisation(rng.uniform(-1, 1, (80, 2000)), seed=4, resamples=2000)
    assert 0.035 <= (p_values < 0.05).mean() <= 0.065
    assert randomisation(np.full((30, 1), 0.1), seed=0)[0] < 0.001
    assert randomisation(np.zeros((30, 1)), seed=0)[0] == 1


def test_holm_is_the_published_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def evaluation(first, second, **names):
    """Return an evaluation of two systems that put the answer of query n at the place `first[n]`, `second[n]`."""
    ids = [f"p{n}" for n in range(12)]
    queries = {f"q{n}": f"问题{n}" for n in range(len(first))}
    dataset = Dataset("小例", queries, {name: Passage(f"内容{name}") for name in ids}, {q: {"p0": 1} for q in queries})

    def rankings(places):
        return {f"q{n}": [*ids[1 : place + 1], "p0", *ids[place + 1 :]] for n, place in enumerate(places)}

    base = Written("基线", rankings(first), ms=10.0)
    other = Written("基线 + 重排" if names.get("reranks") else "大模型", rankings(second), ms=51.0,
                    base=base if names.get("reranks") else None)  # fmt: skip
    return evaluate_systems(dataset, [base, other])


def test_a_reranker_that_helps_pays_and_the_sentence_says_what_it_costs():
    places = [n % 3 for n in range(60)]
    (comparison,) = evaluation(places, [0] * 60, reranks=True).comparisons
    assert comparison.verdict == "pays"
    assert (comparison.better, comparison.worse, comparison.equal) == (40, 0, 20)
    assert comparison.interval[0] < comparison.difference < comparison.interval[1]
    assert comparison.sentence.startswith("重排 on top of 基线: +0.290 nDCG@10 (+0.2")
    assert comparison.sentence.endswith("), 41 ms more a query: pays")
    assert comparison.sentence_zh.endswith("，每次查询多用 41 毫秒：值得")


def test_a_reranker_that_harms_is_called_worse():
    (comparison,) = evaluation([0] * 60, [n % 3 for n in range(60)], reranks=True).comparisons
    assert comparison.verdict == "worse"
    assert comparison.sentence.endswith("does not pay, it is worse")


def test_chance_is_called_no_difference_that_so_many_questions_can_show():
    (comparison,) = evaluation([n % 2 for n in range(40)], [(n + 1) % 2 for n in range(40)]).comparisons
    assert comparison.verdict == "no difference"
    assert "no difference in nDCG@10 that 40 questions can show" in comparison.sentence


def test_a_certain_difference_that_nobody_would_notice_is_called_too_small():
    places = [9] * 2000
    (comparison,) = evaluation(places, [8 if n % 20 == 0 else 9 for n in range(2000)], reranks=True).comparisons
    assert comparison.p_adjusted < 0.05
    assert 0 < comparison.difference < 0.005
    assert comparison.verdict == "too small"


def test_an_interval_above_0_that_the_test_does_not_confirm_is_called_chance():
    (comparison,) = evaluation([1, 0, 0, 1, 0, 1, 0, 0, 1, 0], [0] * 10).comparisons
    assert comparison.interval[0] > 0
    assert comparison.p_adjusted > 0.05
    assert comparison.verdict == "no difference"
    assert comparison.sentence.endswith(": may be chance, with 10 questions and 1 comparison")


def test_of_two_models_the_better_one_is_judged():
    (comparison,) = evaluation([0] * 60, [n % 3 for n in range(60)]).comparisons
    assert (comparison.system, comparison.baseline, comparison.verdict) == ("基线", "大模型", "better")
    assert "41 ms less a query" in comparison.sentence


def test_comparisons_do_not_depend_on_the_run():
    first, second = (evaluation([n % 5 for n in range(30)], [n % 4 for n in range(30)]) for _ in range(2))
    assert first.to_json() == second.to_json()
