"""Who waits how long, in virtual time: passes by seconds, questions first, nobody for ever."""

import random

import pytest

from tests.engine.virtual_time import Caller, TimedEngine, computed, simulate, waits
from zh_retrieval.engine.pace import Pace

QUESTION = [12]


def corpus(count, seed=0):
    """Return lengths of `count` texts: 15 to 500 tokens, mostly about 80."""
    rng = random.Random(seed)
    return [int(min(500, max(15, rng.lognormvariate(4.4, 0.7)))) for _ in range(count)]


def every(seconds, count, begin=1.0):
    return [Caller(begin + number * seconds, QUESTION) for number in range(count)]


def even(count):
    rng = random.Random(1)
    return [rng.randint(90, 135) for _ in range(count)]


@pytest.mark.parametrize(("fixed", "rate"), [(0.015, 3300), (0.025, 1200)], ids=["full pass 0.6 s", "full pass 1.7 s"])
def test_a_query_every_150_ms_waits_little_and_the_job_goes_on(fixed, rate):
    engine = TimedEngine(fixed, rate)
    queries = every(0.15, 200)
    simulate(engine, [Caller(0.0, even(2000)), *queries], until=31.0)
    alone = engine.takes(sum(QUESTION))
    middle, late = waits([query for query in queries if query.end])
    assert middle <= 5 * alone
    assert late <= 8 * alone
    full = engine.max_batch_tokens / engine.takes(engine.max_batch_tokens)
    assert computed(engine, 2.0, 30.0) / 28.0 >= 0.6 * full


def test_passes_that_stand_still_now_and_then_do_not_make_the_others_long():
    engine = TimedEngine(outliers=7)
    queries = every(0.15, 200)
    simulate(engine, [Caller(0.0, even(2000)), *queries], until=31.0)
    assert waits([query for query in queries if query.end])[0] <= 5 * engine.takes(sum(QUESTION)) * 16 / 7


def test_a_text_is_not_cut_so_a_query_waits_for_the_longest_at_most():
    engine = TimedEngine()
    queries = every(0.15, 200)
    simulate(engine, [Caller(0.0, corpus(5000)), *queries], until=31.0)
    assert max(query.waited for query in queries[8:] if query.end) <= engine.takes(500) + 2 * engine.takes(12)


def test_a_job_has_its_whole_rate_when_nobody_asks():
    engine = TimedEngine()
    simulate(engine, [*every(0.15, 20), Caller(0.0, even(5000))], until=60.0)
    full = engine.max_batch_tokens / engine.takes(engine.max_batch_tokens)
    assert computed(engine, 10.0, 60.0) / 50.0 >= 0.97 * full


def test_a_lone_caller_who_asks_and_embeds_in_turn_gets_whole_passes():
    engine, when, calls = TimedEngine(), 0.0, []
    for _ in range(10):
        calls += [Caller(when, QUESTION), Caller(when + 1, [30] * 60)]
        when += 4
    simulate(engine, calls)
    assert len(engine.passes) == 20


def test_one_question_behind_eight_calls_waits_a_third_of_their_time_at_most():
    for rate in (1200, 3300, 30_000):
        for begin in (0.1, 3.0):
            engine = TimedEngine(rate=rate)
            calls = [Caller(0.01 * number, corpus(60, number)) for number in range(8)]
            question = Caller(begin, QUESTION)
            simulate(engine, [*calls, question])
            if begin < min(call.end for call in calls) or rate < 30_000:
                assert question.waited <= max(call.end for call in calls) / 3


def test_a_short_call_goes_ahead_of_a_longer_one_that_came_first():
    engine = TimedEngine()
    first, long, short = Caller(0.0, corpus(30)), Caller(0.1, [100] * 50), Caller(0.2, [100] * 10)
    simulate(engine, [Caller(-1.0, [512] * 8), first, long, short])
    assert short.end < long.end


def test_nobody_starves_while_more_is_asked_than_can_be_computed():
    engine = TimedEngine()
    questions = [Caller(number * 0.02, [30]) for number in range(3000)]
    small = [Caller(number * 0.5, [60] * 10) for number in range(120)]
    little, bulk = Caller(5.0, [100] * 55), Caller(5.0, corpus(100))
    simulate(engine, [*questions, *small, little, bulk])
    assert little.end < 60
    assert bulk.end < 60


def test_passes_of_a_large_model_on_a_cpu_are_cut_to_single_texts_and_no_further():
    engine = TimedEngine(fixed=0.5, rate=50, most=2048)
    queries = [Caller(20.0 + 5 * number, [24]) for number in range(30)]
    simulate(engine, [Caller(0.0, [60] * 20), Caller(0.0, [100] * 2000), *queries], until=190.0)
    middle, late = waits([query for query in queries[3:] if query.end])
    alone = engine.takes(24)
    assert middle <= 5 * alone
    assert late <= 8 * alone
    assert {tokens for begin, _, tokens in engine.passes if 80 < begin < 165} == {24, 100}


def test_a_pass_of_a_gpu_is_short_while_somebody_asks_and_full_otherwise():
    engine = TimedEngine(fixed=0.001, rate=1_500_000, most=262_144, late=True)
    queries = every(0.15, 40, begin=2.0)
    simulate(engine, [Caller(0.0, [512] * 25_000), *queries], until=8.0)
    before = [end - begin for begin, end, tokens in engine.passes if begin < 1.9 and tokens > 64]
    during = [end - begin for begin, end, tokens in engine.passes if 2.5 < begin < 7.5 and tokens > 64]
    assert min(before[:5]) > 0.15
    assert max(during) < 0.1
    assert max(query.waited for query in queries[3:]) < 0.2


def test_the_rate_is_learnt_in_few_passes_bounded_and_not_moved_by_one_that_stood_still():
    pace = Pace(lambda: 0.0)
    for _ in range(5):
        pace.computed(1000, 0.5, False)
    pace.computed(1000, 3600.0, False)
    assert pace.rate == 2000
    pace = Pace(lambda: 0.0)
    pace.computed(10**6, 0.0, False)
    assert pace.rate == 1e9
    assert pace.budget(2048) == 2048
    pace.asked()
    assert pace.budget(2048) == 2048
    for _ in range(9):
        pace.computed(100, 1e9, True)
    assert pace.rate == 0.1
    assert pace.seconds == 5
    assert pace.budget(2048) == 64


def test_budgets_of_a_rate_that_wavers_are_few():
    budgets, pace = set(), Pace(lambda: 0.0)
    pace.asked()
    for rate in range(500, 5000, 10):
        for _ in range(9):
            pace.computed(1000, 1000 / rate, False)
        budgets.add(pace.budget(2048))
    assert budgets == {64, 96, 128, 192, 256, 384, 512}


def test_a_pass_takes_four_questions_at_most_a_tenth_of_a_second_or_two_of_a_slow_model():
    seconds = []
    for alone in (0.001, 0.02, 0.03, 0.7, 60):
        pace = Pace(lambda: 0.0)
        pace.computed(12, 9 * alone, True)
        pace.computed(12, alone, True)
        pace.computed(12, alone / 9, False)
        seconds.append(pace.seconds)
    assert seconds == [0.05, 0.08, 0.1, 1.4, 5]


def test_time_decides_what_is_a_question_and_what_is_little():
    pace = Pace(lambda: 0.0)
    assert [pace.is_question(256), pace.is_question(257), pace.is_little(4000), pace.is_little(4001)] == [
        True, False, True, False]  # fmt: skip
    pace.computed(10_000, 0.01, False)
    assert [pace.is_question(100_000), pace.is_question(100_001)] == [True, False]
    assert [pace.is_little(2_000_000), pace.is_little(2_000_001)] == [True, False]
