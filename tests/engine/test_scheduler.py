"""The scheduler on a fake engine whose batches overlap or not: merging, turns, errors, cancellation, closing."""

import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest

import zh_retrieval as zr
from tests.engine.fakes import FakeEngine, sequences
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.turns import Job
from zh_retrieval.sequence import Tokens


@pytest.fixture(params=[False, True], ids=["ready", "late"])
def late(request):
    """Return whether rows are ready when a batch was started (CPU), or later (CUDA)."""
    return request.param


@pytest.fixture
def free(late):
    scheduler = Scheduler(FakeEngine(late=late))
    yield scheduler
    scheduler.close()


@pytest.fixture
def held(late):
    engine = FakeEngine(held=True, late=late)
    scheduler = Scheduler(engine)
    first = scheduler.submit(sequences(0))
    assert engine.started.wait(10)
    yield engine, scheduler
    engine.gate.set()
    first.result(10)
    scheduler.close()


def test_results_come_back_in_the_callers_order(free):
    tokens = [Tokens([number] * (number % 5 + 1)) for number in range(1, 30)]
    np.testing.assert_array_equal(free.submit(tokens).result(10)[:, 0], range(1, 30))


def test_waiting_calls_share_a_batch(held):
    engine, scheduler = held
    futures = [scheduler.submit(sequences(number), "interactive") for number in (1, 2, 3)]
    engine.gate.set()
    assert [future.result(10)[0, 0] for future in futures] == [1, 2, 3]
    assert engine.batches[1] == [1, 2, 3]


def test_interactive_work_goes_ahead_of_bulk_that_waits(held):
    engine, scheduler = held
    bulk = scheduler.submit(sequences(*range(10, 30)))
    query = scheduler.submit(sequences(1), "interactive")
    engine.gate.set()
    query.result(10)
    bulk.result(10)
    assert engine.batches[1] == [1]


def test_bulk_is_not_starved_by_interactive_work(held):
    engine, scheduler = held
    bulk = scheduler.submit(sequences(7))
    queries = [scheduler.submit(sequences(number, length=8), "interactive") for number in range(100, 140)]
    engine.gate.set()
    bulk.result(10)
    for query in queries:
        query.result(10)
    assert engine.batches.index([7]) < 12


def test_a_small_bulk_call_does_not_wait_for_the_end_of_a_large_one(held):
    engine, scheduler = held
    large = scheduler.submit(sequences(*range(100, 500)))
    small = scheduler.submit(sequences(1))
    engine.gate.set()
    small.result(10)
    large.result(10)
    assert next(number for number, batch in enumerate(engine.batches) if 1 in batch) <= 2


def test_jobs_of_one_call_take_one_turn(held):
    engine, scheduler = held
    greedy = [scheduler.enqueue(Job(sequences(*range(low, low + 40)), call="greedy")) for low in (100, 200, 300)]
    modest = scheduler.submit(sequences(*range(1, 11)))
    engine.gate.set()
    modest.result(10)
    for future in greedy:
        future.result(10)
    last = max(number for number, batch in enumerate(engine.batches) if set(batch) & set(range(1, 11)))
    theirs = sum(len(set(batch) & set(range(100, 400))) for batch in engine.batches[: last + 1])
    assert theirs <= 14  # half of each batch, and the batch that was taken when they came


def test_no_batch_exceeds_the_budget_unless_one_sequence_does(held):
    engine, scheduler = held
    futures = [scheduler.submit([Tokens([n] * n) for n in (1, 2, 3, 4, 5, 6, 7, 20)]) for _ in range(3)]
    engine.gate.set()
    for future in futures:
        future.result(10)
    assert all(sum(batch) <= 8 or len(batch) == 1 for batch in engine.batches[1:])


def test_a_sequence_over_the_budget_beside_other_callers_hangs_nobody(held):
    engine, scheduler = held
    sizes = ((1, 20), (2, 2), (3, 30), (4, 8), (5, 9))
    futures = [scheduler.submit(sequences(number, length=size)) for number, size in sizes]
    engine.gate.set()
    assert [future.result(10)[0, 0] for future in futures] == [1, 2, 3, 4, 5]


def test_a_budget_that_shrinks_below_what_waits_hangs_nobody(held):
    engine, scheduler = held
    futures = [scheduler.submit(sequences(number, number + 10, length=8)) for number in (1, 2)]
    engine.max_batch_tokens = 3
    engine.gate.set()
    assert [future.result(10)[:, 0].tolist() for future in futures] == [[1, 11], [2, 12]]


@pytest.mark.parametrize("poison", [666, 667])
def test_an_error_reaches_only_the_caller_who_caused_it(held, poison):
    engine, scheduler = held
    good, bad, fine = (scheduler.submit(sequences(number), "interactive") for number in (1, poison, 3))
    engine.gate.set()
    assert (good.result(10)[0, 0], fine.result(10)[0, 0]) == (1, 3)
    with pytest.raises(ValueError, match="666"):
        bad.result(10)
    assert scheduler.submit(sequences(4)).result(10)[0, 0] == 4


def test_values_that_are_not_finite_are_an_error_for_their_caller_only(held):
    engine, scheduler = held
    good, bad = (scheduler.submit(sequences(number), "interactive") for number in (1, 1313))
    engine.gate.set()
    assert good.result(10)[0, 0] == 1
    with pytest.raises(zr.CheckpointError, match="NaN or Inf"):
        bad.result(10)


def test_float16_that_overflows_is_not_blamed_on_the_weights(free):
    free.batcher.engine.dtype = "torch.float16"
    with pytest.raises(zr.CheckpointError, match="float16 holds nothing above 65504") as caught:
        free.submit(sequences(1313)).result(10)
    assert "fetch" not in str(caught.value)


@pytest.mark.parametrize("poison", [666, 667])
@pytest.mark.parametrize("error", [RuntimeError("fatal: CUDA error"), SystemExit(3)])
def test_what_kills_the_worker_fails_everything_that_waits(held, error, poison):
    engine, scheduler = held
    engine.error = error
    waiting = [scheduler.submit(sequences(number)) for number in (1, poison, 2)]
    waiting.append(scheduler.submit(sequences(5), "interactive"))
    room = scheduler.reserve(5, limit=1) or scheduler.reserve(5, limit=1)
    engine.gate.set()
    found = []
    for future in [*waiting, room]:
        try:
            found.append(future.result(10))
        except zr.ClosedError as closed:
            found.append(closed)
    assert any(isinstance(one, zr.ClosedError) and one.__cause__ is error for one in found)
    assert isinstance(found[1], zr.ClosedError)
    scheduler.join(10)
    assert scheduler.closed
    with pytest.raises(zr.ClosedError):
        scheduler.submit(sequences(1))
    with pytest.raises(zr.ClosedError):
        scheduler.reserve(1)


def test_cancelled_work_is_not_started(held):
    engine, scheduler = held
    dropped = [scheduler.submit(sequences(5), priority) for priority in ("bulk", "interactive")]
    kept = scheduler.submit(sequences(6))
    assert all(future.cancel() for future in dropped)
    engine.gate.set()
    assert kept.result(10)[0, 0] == 6
    for future in dropped:
        with pytest.raises(CancelledError):
            future.result(0)
    assert not any(5 in batch for batch in engine.batches)


def test_closing_fails_what_waits_and_refuses_more_without_waiting_for_the_batch_that_runs(held):
    engine, scheduler = held
    waiting = scheduler.submit(sequences(5))
    started = time.monotonic()
    scheduler.close()
    assert time.monotonic() - started < 5  # the batch is held for ever
    with pytest.raises(zr.ClosedError):
        waiting.result(0)
    with pytest.raises(zr.ClosedError):
        scheduler.submit(sequences(1))
    assert not scheduler.ended.done()
    engine.gate.set()
    scheduler.join(10)
    assert scheduler.ended.done()


def test_a_closed_scheduler_holds_no_engine(free):
    assert free.submit(sequences(1)).result(10)[0, 0] == 1
    free.close()
    assert free.batcher.engine is None


def test_one_that_never_worked_closes_too(late):
    scheduler = Scheduler(FakeEngine(late=late))
    scheduler.close()
    assert scheduler.ended.done()
    assert scheduler.batcher.engine is None


def test_room_is_limited_for_each_priority(held):
    engine, scheduler = held
    assert scheduler.reserve(90, limit=100) is None
    assert scheduler.reserve(90, "interactive", limit=100) is None  # bulk that waits is not in its way
    with pytest.raises(zr.OverloadedError, match="90 tokens wait already, 20 more"):
        scheduler.reserve(20, limit=100, refuse=True)
    room, behind = scheduler.reserve(20, limit=100), scheduler.reserve(5, limit=100)
    assert not room.done()
    assert not behind.done()  # nobody is overtaken
    bulk = scheduler.enqueue(Job(sequences(1), reserved=90))
    engine.gate.set()
    assert bulk.result(10)[0, 0] == 1
    assert room.result(10) is None
    assert behind.result(10) is None


def test_who_is_cancelled_while_waiting_for_room_takes_none(held):
    engine, scheduler = held
    assert scheduler.reserve(90, limit=100) is None
    gone, next_one = scheduler.reserve(60, limit=100), scheduler.reserve(60, limit=100)
    assert gone.cancel()
    engine.gate.set()
    scheduler.free(90, "bulk")
    assert next_one.result(10) is None
    assert scheduler.reserve(40, limit=100) is None


def test_more_than_the_limit_has_room_when_nothing_waits(free):
    assert free.reserve(1000, limit=10) is None


def test_room_comes_back_when_work_is_cancelled(held):
    engine, scheduler = held
    assert scheduler.reserve(10, limit=10) is None
    scheduler.enqueue(Job(sequences(1), reserved=10)).cancel()
    room = scheduler.reserve(10, limit=10)
    engine.gate.set()
    assert room.result(10) is None


def test_closing_fails_who_waits_for_room(held):
    _, scheduler = held
    assert scheduler.reserve(10, limit=10) is None
    room = scheduler.reserve(10, limit=10)
    scheduler.close()
    with pytest.raises(zr.ClosedError):
        room.result(10)


def test_a_sequence_may_give_several_rows(free):
    tokens = [Tokens([4] * 3, spans=((0, 1), (1, 3))), Tokens([5]), Tokens([6] * 2, spans=())]
    assert free.submit(tokens).result(10)[:, 0].tolist() == [4, 4, 5]


def test_work_that_is_none_is_refused_to_its_caller(free):
    with pytest.raises(ValueError, match="empty"):
        free.submit([])
    with pytest.raises(ValueError, match="'query'"):
        free.submit(sequences(1), "query")
    assert free.submit(sequences(1)).result(10)[0, 0] == 1


@pytest.mark.slow
def test_a_garbage_collection_may_release_a_model_anywhere(late):
    """A finalizer that closes runs between any two lines, in the worker and in callers."""
    for threshold in (1, 2, 3, 5, 7):
        scheduler = Scheduler(FakeEngine(late=late))
        others = [Scheduler(FakeEngine(late=late)) for _ in range(20)]

        class Holder:
            def __init__(self, released):
                self.released, self.cycle = released, self

            def __del__(self):
                self.released.retire()
                self.released.free(1, "bulk")

        before = gc.get_threshold()
        gc.set_threshold(threshold)
        try:
            for other in others:
                other.submit(sequences(1)).result(10)
                Holder(other)
                scheduler.reserve(2)
                scheduler.enqueue(Job(sequences(3), reserved=2)).result(10)
        finally:
            gc.set_threshold(*before)
        scheduler.close()
        gc.collect()
        for other in others:
            other.ended.result(10)


def test_a_job_is_not_kept_alive_after_its_result(held):
    class Ids(list):
        pass

    engine, scheduler = held
    ids = Ids([5, 5])
    alive = weakref.ref(ids)
    future = scheduler.submit([Tokens(ids)])
    del ids
    engine.gate.set()
    assert future.result(10)[0, 0] == 5
    del future
    scheduler.submit(sequences(6)).result(10)
    gc.collect()
    assert alive() is None


@pytest.mark.slow
@pytest.mark.parametrize("broken", [666, 667], ids=["started", "read"])
@pytest.mark.parametrize("message", ["wrong", "fatal"])
def test_who_keeps_an_error_keeps_no_engine(late, broken, message):
    engine = FakeEngine(late=late)
    engine.error = ValueError(message)
    scheduler, alive = Scheduler(engine), weakref.ref(engine)
    error = scheduler.submit(sequences(broken)).exception(10)
    scheduler.close()
    scheduler.join(10)
    del engine
    gc.collect()
    assert message in str(error)
    assert alive() is None


def test_a_thread_that_does_not_start_is_an_error_and_not_a_hang(late, monkeypatch):
    scheduler = Scheduler(FakeEngine(late=late))

    def fail(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            scheduler.submit(sequences(1))
    assert scheduler.submit(sequences(2)).result(10)[0, 0] == 2
    scheduler.close()


@pytest.mark.timing
def test_a_lone_call_pays_less_than_a_fifth_of_a_millisecond():
    scheduler = Scheduler(FakeEngine())
    tokens = sequences(1)
    times = []
    for _ in range(300):
        start = time.perf_counter()
        scheduler.reserve(2, "interactive")
        scheduler.enqueue(Job(tokens, "interactive", reserved=2)).result(10)
        times.append(time.perf_counter() - start)
    scheduler.close()
    assert sorted(times)[len(times) // 2] < 0.0002 * 3  # three times the budget: machines that test are busy
