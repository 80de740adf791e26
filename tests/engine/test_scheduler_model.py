"""The scheduler against a model of it: any order of submitting, cancelling, failing, closing and forking ends well."""

import os
import threading
from concurrent.futures import CancelledError, wait

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import zh_retrieval as zr
from tests.depth import examples
from tests.engine.fakes import FakeEngine, sequences
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.engine.turns import Job

WATCHDOG = 3  # seconds after which a future that is not done counts as a hang
PRIORITIES = st.sampled_from(["interactive", "bulk"])
POISON = {666, 667, 1313}


class Steps(threading.Event):
    """A gate that lets batches through one at a time, or all."""

    def __init__(self):
        super().__init__()
        self.credit = threading.Semaphore(0)

    def wait(self, timeout=None):
        return self.is_set() or self.credit.acquire(timeout=WATCHDOG)

    def set(self):
        super().set()
        self.credit.release(10_000)


class SchedulerMachine(RuleBasedStateMachine):
    """Every future ends: with the right rows, its own error, a cancellation, or ClosedError once it is closed."""

    @initialize(late=st.booleans(), budget=st.sampled_from([1, 3, 8, 50]))
    def start(self, late, budget):
        self.engine = FakeEngine(budget, held=True, late=late)
        self.engine.gate = Steps()
        self.scheduler = Scheduler(self.engine)
        self.jobs = []  # (ids, future)
        self.rooms = []
        self.number = 0
        self.closed = self.fatal = False

    @rule(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12), priority=PRIORITIES, call=st.integers(0, 3))
    def submit(self, sizes, priority, call):
        ids = [10_000 + self.number + index for index in range(len(sizes))]
        self.number += len(ids)
        tokens = [one for id_, size in zip(ids, sizes, strict=True) for one in sequences(id_, length=size)]
        self._enqueue(ids, Job(tokens, priority, call))

    @rule(poison=st.sampled_from(sorted(POISON)), priority=PRIORITIES)
    def submit_what_fails(self, poison, priority):
        self._enqueue([poison], Job(sequences(poison), priority))

    def _enqueue(self, ids, job):
        try:
            self.jobs.append((ids, self.scheduler.enqueue(job)))
        except zr.ClosedError:
            assert self.closed

    @rule(which=st.integers(0, 30))
    def cancel(self, which):
        if self.jobs:
            self.jobs[which % len(self.jobs)][1].cancel()

    @rule(tokens=st.integers(1, 50), priority=PRIORITIES, refuse=st.booleans())
    def reserve(self, tokens, priority, refuse):
        try:
            room = self.scheduler.reserve(tokens, priority, limit=60, refuse=refuse)
        except zr.OverloadedError:
            assert refuse
            return
        except zr.ClosedError:
            assert self.closed
            return
        self.rooms.append((tokens, priority, room))

    @rule(which=st.integers(0, 30))
    def leave_the_queue_for_room(self, which):
        if self.rooms:
            tokens, priority, room = self.rooms.pop(which % len(self.rooms))
            if room is None or not room.cancel():
                self.scheduler.free(tokens, priority)

    @rule(count=st.integers(1, 5))
    def let_batches_through(self, count):
        self.engine.gate.credit.release(count)

    @rule(budget=st.sampled_from([1, 5, 40]))
    def change_the_budget(self, budget):
        self.engine.max_batch_tokens = budget

    @rule()
    def close(self):
        self.closed = True
        self.scheduler.close()

    @rule()
    def release_as_a_finalizer_does(self):
        self.closed = True
        self.scheduler.retire()

    @rule()
    def meet_a_fatal_error(self):
        if not self.closed:
            self.engine.error = RuntimeError("fatal")
            self.closed = self.fatal = True
            self._enqueue([667], Job(sequences(667), "interactive"))

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        self.engine.gate.set()
        for tokens, priority, room in self.rooms:
            if room is None:
                self.scheduler.free(tokens, priority)
        for _, _, room in self.rooms:
            if room is not None and not room.cancel() and room.exception(WATCHDOG) is None:
                self.scheduler.free(1, "bulk")
        unfinished = wait([future for _, future in self.jobs], WATCHDOG).not_done
        assert not unfinished, f"{len(unfinished)} callers wait for ever"
        for ids, future in self.jobs:
            self._check(ids, future)
        self.scheduler.close()
        self.scheduler.ended.result(WATCHDOG)
        assert not self.scheduler._jobs

    def _check(self, ids, future):
        try:
            rows = future.result(0)
        except CancelledError:
            return
        except zr.ClosedError:
            assert self.closed
        except (ValueError, zr.CheckpointError, RuntimeError):
            assert POISON & set(ids)
        else:
            assert rows[:, 0].tolist() == ids


SchedulerMachine.TestCase.settings = settings(
    max_examples=examples(60),
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestScheduler = SchedulerMachine.TestCase


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("late", [False, True])
def test_a_child_forked_at_any_moment_computes_and_the_parent_goes_on(late):
    engine = FakeEngine(late=late)
    scheduler = Scheduler(engine)
    stop = threading.Event()

    def submit():
        while not stop.is_set():
            scheduler.reserve(4, "bulk", limit=1000)
            scheduler.enqueue(Job(sequences(1, 2), reserved=4)).result(WATCHDOG)

    callers = [threading.Thread(target=submit) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(25):
            child = os.fork()
            if child == 0:
                answer = scheduler.submit(sequences(7)).result(WATCHDOG)[0, 0]
                os._exit(0 if answer == 7 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert scheduler.submit(sequences(9)).result(WATCHDOG)[0, 0] == 9
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    scheduler.close()
