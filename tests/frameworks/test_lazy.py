"""Weights that load on first use: one load for all who wait, whatever becomes of some of them."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zh_retrieval.frameworks.lazy import Lazy


class Model:
    closed = False


class Loading:
    """A load that takes until it is let go, and fails if it is told to."""

    def __init__(self):
        self.begun, self.go, self.fail = threading.Event(), threading.Event(), False
        self.models = []
        self.count = 0

    def __call__(self):
        self.count += 1
        self.begun.set()
        assert self.go.wait(30)
        if self.fail:
            raise OSError("no weights")
        self.models.append(Model())
        return self.models[-1]


async def until(event):
    """Wait for a thread's event without a thread of the executor."""
    for _ in range(5000):
        if event.is_set():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def test_forty_first_requests_are_one_load_and_take_no_thread():
    lazy, load = Lazy(), Loading()
    before = threading.active_count()
    waiting = [asyncio.create_task(lazy.aget(load)) for _ in range(40)]
    await until(load.begun)
    assert threading.active_count() == before + 1
    start = time.perf_counter()
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "name looked up"), 5) == "name looked up"
    assert time.perf_counter() - start < 1
    load.go.set()
    assert set(await asyncio.gather(*waiting)) == {load.models[0]}
    assert load.count == 1
    assert await lazy.aget(load) is lazy.get(load) is load.models[0]


async def test_threads_and_event_loops_wait_for_the_same_load():
    lazy, load = Lazy(), Loading()
    with ThreadPoolExecutor(8) as pool:
        in_threads = [pool.submit(lazy.get, load) for _ in range(8)]
        here = asyncio.create_task(lazy.aget(load))
        await until(load.begun)
        await asyncio.sleep(0.02)
        load.go.set()
        assert {await here, *[future.result(5) for future in in_threads]} == {load.models[0]}
    assert load.count == 1


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_anew_by_the_next():
    lazy, load = Lazy(), Loading()
    load.fail = True
    with ThreadPoolExecutor(1) as pool:
        waiting = [asyncio.create_task(lazy.aget(load)) for _ in range(5)]
        waiting.append(asyncio.wrap_future(pool.submit(lazy.get, load)))
        await until(load.begun)
        await asyncio.sleep(0.02)
        load.go.set()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in errors] == ["no weights"] * 6
    load.fail = False
    assert lazy.get(load) is load.models[0]
    assert load.count == 2


@pytest.mark.parametrize("cancelled", [1, 3])
async def test_cancelling_who_waits_does_not_cancel_the_load(cancelled):
    lazy, load = Lazy(), Loading()
    waiting = [asyncio.create_task(lazy.aget(load)) for _ in range(3)]
    await until(load.begun)
    for task in waiting[:cancelled]:
        task.cancel()
    results = await asyncio.gather(*waiting[:cancelled], return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    load.go.set()
    assert set(await asyncio.gather(*waiting[cancelled:], lazy.aget(load))) == {load.models[0]}
    assert load.count == 1


async def test_dropping_in_async_code_frees_the_model_in_another_thread():
    threads = []

    class Heavy(Model):
        def __del__(self):
            threads.append(threading.get_ident())

    lazy = Lazy()
    await lazy.aget(Heavy)
    await asyncio.sleep(0.05)  # the event loop's own references to the result
    await lazy.adrop()
    assert threads
    assert threads[0] != threading.get_ident()
    await lazy.adrop()


async def test_what_is_dropped_while_it_loads_reaches_those_who_wait_and_nobody_later():
    lazy, load = Lazy(), Loading()
    waiting = asyncio.create_task(lazy.aget(load))
    await until(load.begun)
    lazy.drop()
    load.go.set()
    first = await waiting
    assert lazy.get(load) is not first
    assert load.count == 2


def test_a_closed_model_is_loaded_again():
    lazy, load = Lazy(), Loading()
    load.go.set()
    lazy.get(load).closed = True
    assert lazy.get(load) is load.models[1]


def test_dropping_frees_the_model_at_once():
    freed = []

    class Heavy(Model):
        def __del__(self):
            freed.append(True)

    lazy = Lazy()
    running = lazy.get(Heavy)
    lazy.drop()
    assert not freed
    del running
    assert freed


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=60, **options
    )


FORKED = """
import os, sys, threading, time
from zh_retrieval.frameworks.lazy import Lazy

class Model:
    closed = False

def slow():
    time.sleep(1)
    return Model()

lazy, loaded = Lazy(), Lazy()
kept = loaded.get(Model)
threading.Thread(target=lazy.get, args=(slow,), daemon=True).start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    assert loaded.get(slow) is kept  # what was loaded before is there
    assert isinstance(lazy.get(Model), Model)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
lazy.get(slow)
"""


def test_a_child_forked_while_its_parent_loads_loads_anew():
    done = run(FORKED)
    assert (done.returncode, done.stderr) == (0, "")


ENDING = """
import asyncio, sys, threading, time
import torch
from zh_retrieval.frameworks.lazy import Lazy

def load():  # as long and as deep in torch as weights of 7B
    end = time.monotonic() + 30
    a = torch.randn(600, 600)
    print("loading", flush=True)
    while time.monotonic() < end:
        a @ a

lazy = Lazy()
if sys.argv[1] == "thread":
    threading.Thread(target=lazy.get, args=(load,), daemon=True).start()
    time.sleep(1)
elif sys.argv[1] == "sync":
    lazy.get(load)
else:
    asyncio.run(lazy.aget(load))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("way", "status"), [("thread", 0), ("sync", -signal.SIGINT), ("async", -signal.SIGINT)])
def test_the_interpreter_ends_cleanly_while_a_model_loads(way, status):
    program = subprocess.Popen(
        [sys.executable, "-c", ENDING, way], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout.readline() == "loading\n"
    start = time.monotonic()
    if status:
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=40)
    assert program.returncode == status, errors
    assert "terminate called" not in errors
    assert time.monotonic() - start < 10
