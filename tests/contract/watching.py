"""Looking on while something works: how long the event loop stands still, and how many forward passes there are."""

import asyncio
import time
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 0.005  # seconds
LIMIT = 0.025  # seconds between two beats


async def longest_pause(work):
    """Await `work` and return the longest time between two beats of the running loop, in seconds.

    Time in which a thread of this program was ready but other programs had the cores does not count: that thread may
    have been the loop's, or one that held the interpreter's lock.
    """
    pauses = []

    async def beat():
        last, queued = time.perf_counter(), queued_for_a_core()
        while True:
            await asyncio.sleep(BEAT)
            now, queued_now = time.perf_counter(), queued_for_a_core()
            held_up = max((queued_now[name] - queued.get(name, 0.0) for name in queued_now), default=0.0)
            pauses.append(now - last - held_up)
            # Each file read gives the interpreter's lock away and waits for it: the time of looking is not the work's.
            last, queued = time.perf_counter(), queued_now

    heart = asyncio.create_task(beat())
    try:
        await asyncio.sleep(0)
        result = await work
        await asyncio.sleep(2 * BEAT)  # a pause at the very end is seen too
    finally:
        heart.cancel()
    longest = max(pauses)
    del result  # not earlier: freeing millions of numbers takes a while, and when is up to the caller
    return longest


def queued_for_a_core():
    """Return for each thread how long, in seconds, it was ready but had no core; {} where the system does not tell.

    Waiting for the interpreter's lock, for another thread's result or for a file is not part of it.
    """
    queued = {}
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):  # a thread that has just ended
            queued[task.parent.name] = int(task.read_text(encoding="ascii").split()[1]) / 1e9
    return queued


@contextmanager
def forward_passes(handle):
    """Yield a list that gets the number of sequences of each forward pass."""
    scheduler = handle._model.scheduler
    engine, sizes = scheduler.batcher.engine, []

    class Watched:
        def __getattr__(self, name):
            return getattr(engine, name)

        def launch(self, tokens):
            sizes.append(len(tokens))
            return engine.launch(tokens)

    scheduler.batcher.engine = Watched()
    try:
        yield sizes
    finally:
        scheduler.batcher.engine = engine
