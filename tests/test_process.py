"""A fork waits for native code: what another thread holds there, the child could never release."""

import os
import threading
import time

import numpy as np
import pytest

from tests.engine.fakes import FakeEngine
from zh_retrieval import process
from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.sequence import Tokens

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def seen_by_child(flag):
    """Return whether a child that is forked now finds `flag` set."""
    child = os.fork()
    if child == 0:
        os._exit(0 if flag.is_set() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def started(work):
    """Run `work(begun)` in a thread; return the thread as soon as it has set `begun`."""
    begun = threading.Event()
    thread = threading.Thread(target=work, args=(begun,))
    thread.start()
    assert begun.wait(10)
    return thread


def test_a_fork_waits_for_native_code_of_other_threads():
    done = threading.Event()

    def compute(begun):
        with process.forks_wait():
            begun.set()
            time.sleep(0.2)
            with process.forks_wait():  # a fork that waits does not stop who is inside already
                done.set()

    thread = started(compute)
    assert seen_by_child(done)
    thread.join()


def test_a_fork_waits_until_a_thread_that_computed_is_gone():
    done = threading.Event()

    def end(begun):
        process.forks_wait_for_end()
        begun.set()
        time.sleep(0.2)
        with process.forks_wait():
            done.set()

    thread = started(end)
    assert seen_by_child(done)
    thread.join()


def test_a_thread_may_fork_inside_its_own_block():
    set_before = threading.Event()
    set_before.set()
    with process.forks_wait():
        assert seen_by_child(set_before)


def test_forks_of_many_threads_come_one_after_the_other():
    found = []
    computed = threading.Event()
    computed.set()

    def fork():
        for _ in range(5):
            with process.forks_wait():
                pass
            found.append(seen_by_child(computed))

    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 20


def test_a_fork_does_not_wait_for_ever(monkeypatch, caplog):
    monkeypatch.setattr(process, "_FORK_PATIENCE", 0.1)
    done = threading.Event()
    leave = threading.Event()

    def compute(begun):
        with process.forks_wait():
            begun.set()
            leave.wait(10)

    thread = started(compute)
    assert not seen_by_child(done)
    assert "may hang" in caplog.text
    leave.set()
    thread.join()


def test_a_child_is_not_forked_in_the_middle_of_a_batch():
    computed, begun = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        def launch(self, tokens):
            begun.set()
            time.sleep(0.2)
            computed.set()
            return super().launch(tokens)

    scheduler = Scheduler(Slow())
    future = scheduler.submit([Tokens([1, 2])])
    assert begun.wait(10)
    assert seen_by_child(computed)
    assert np.isfinite(future.result(10)).all()
    scheduler.close()
