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


def several(means, *, queries=200, times=None, base=None, noise=0.0, synthetic=False):
    """Return an evaluation of systems that find the answer first for a share of the questions, drawn one by one."""
    rng = np.random.default_rng(7)
    common = rng.random(queries)
    ids = [f"p{n}" for n in range(12)]
    texts = {f"q{n}": f"问题{n}" for n in range(queries)}
    dataset = Dataset("小例", texts, {name: Passage(f"内容{name}") for name in ids}, {q: {"p0": 1} for q in texts},
                      synthetic=synthetic)  # fmt: skip
    systems = {}
    for name, mean in means.items():
        drawn = common + noise * rng.normal(size=queries)
        found = {f"q{n}": ids if drawn[n] < mean else ids[1:] for n in range(queries)}
        systems[name] = Written(name, found, base=systems.get((base or {}).get(name)), ms=(times or {}).get(name, 10.0))
    return evaluate_systems(dataset, list(systems.values()))


def test_the_best_is_taken_where_it_is_told_from_every_other():
    found = several({"慢": 0.9, "快": 0.6, "中": 0.7}, times={"慢": 90.0, "快": 1.0}).conclusion
    assert (found.take, found.tied) == ("慢", ())
    assert found.sentence.startswith("Take 慢, because it finds more than every other: nDCG@10 0.890")
    assert "90 ms a query (中: 10 ms)" in found.sentence
    assert found.sentence_zh.startswith("选 慢：找得比其他都准")


def test_of_what_cannot_be_told_apart_the_quickest_is_taken_if_it_can_lose_little():
    found = several({"慢": 0.8, "快": 0.799}, queries=1000, times={"慢": 90.0, "快": 1.0}).conclusion
    assert found.take == "快"
    assert set(found.tied) == {"慢", "快"}
    assert "because it is the quickest (1.0 ms a query, 慢 90 ms)" in found.sentence
    best = several({"慢": 0.79, "快": 0.8}, times={"慢": 90.0, "快": 1.0}).conclusion
    assert best.take == "快"
    assert "is the highest" in best.sentence


@pytest.mark.parametrize("times", [{}, {"a": 90.0, "b": 1.0}, {"a": None, "b": None}])
def test_nothing_is_taken_where_nothing_can_be_told(times):
    found = several({"a": 0.62, "b": 0.58, "c": 0.5}, queries=20, times=times, noise=0.3).conclusion
    assert found.take is None
    assert len(found.tied) >= 2
    assert found.sentence.startswith("Nothing to choose yet: 20 questions cannot tell")
    assert "better. Ask more questions" in found.sentence
    assert found.sentence_zh.startswith("还不能选：20 个问题")


def test_one_system_one_question_and_nothing_found_are_said_as_such():
    assert "nothing to choose from" in several({"a": 0.5}).conclusion.sentence
    assert several({"a": 0.5}).conclusion.take is None
    assert several({"a": 1.0, "b": 0.0}, queries=1).conclusion.sentence.startswith("Nothing can be told")
    assert several({"a": 0.0, "b": 0.0}).conclusion.sentence.startswith("Take none: no system finds")
    assert several({"a": 0.9, "b": 0.1}, synthetic=True).conclusion.sentence.endswith("this is a hint, no more.")


def test_rerankers_on_one_first_stage_are_compared_and_the_best_with_every_other():
    base = {"甲 + 大": "甲", "甲 + 小": "甲", "乙 + 大": "乙"}
    found = several({"甲": 0.4, "乙": 0.5, "甲 + 大": 0.9, "甲 + 小": 0.7, "乙 + 大": 0.6}, base=base)
    pairs = {frozenset((one.system, one.baseline)) for one in found.comparisons}
    wanted = {("甲", "乙"), ("甲", "甲 + 大"), ("甲", "甲 + 小"), ("乙", "乙 + 大"), ("甲 + 大", "甲 + 小"),
              ("甲 + 大", "乙"), ("甲 + 大", "乙 + 大")}  # fmt: skip
    assert pairs == set(map(frozenset, wanted))
    two = next(one for one in found.comparisons if {one.system, one.baseline} == {"甲 + 大", "甲 + 小"})
    assert (two.system, two.verdict) == ("甲 + 大", "better")
    assert two.sentence.startswith("甲 + 大 against 甲 + 小: ")
    assert found.conclusion.take == "甲 + 大"


def test_p_values_are_corrected_for_all_pairs():
    found = several({f"s{n}": 0.5 + n / 50 for n in range(5)}, base={"s3": "s0", "s4": "s1"}, noise=0.02)
    shown = len(found.comparisons)
    assert shown < 10
    least = min(found.comparisons, key=lambda one: one.p_value)
    assert least.p_adjusted == pytest.approx(min(1.0, 10 * least.p_value), rel=0.35)
