"""The scheduler's batches in virtual time: engines whose passes take as long as is said, and callers that come when."""

from contextlib import nullcontext
from statistics import median, quantiles

import numpy as np

from zh_retrieval.engine.batching import Batcher, is_ready
from zh_retrieval.engine.room import Room
from zh_retrieval.engine.turns import Job
from zh_retrieval.sequence import Tokens


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Rows:
    def __init__(self, engine, count, end):
        self.engine, self.count, self.end = engine, count, end

    @property
    def ready(self):
        return self.engine.clock.now >= self.end

    def result(self):
        self.engine.clock.now = max(self.engine.clock.now, self.end)
        return np.zeros((self.count, 1), dtype=np.float32)


class TimedEngine:
    """A pass takes `fixed` seconds (the reading of the weights) and its tokens over `rate`; `late`: it overlaps.

    Attributes:
        passes: (begin, end, tokens) of each.
        outliers: Every so many passes one takes ten times as long; 0: none.
    """

    width, dtype, device = 1, "float32", "cpu"

    def __init__(self, fixed=0.015, rate=3300, most=2048, late=False, outliers=0):
        self.clock = Clock()
        self.fixed, self.rate, self.max_batch_tokens = fixed, rate, most
        self.late, self.outliers = late, outliers
        self.passes = []

    def takes(self, tokens):
        return self.fixed + tokens / self.rate

    def launch(self, tokens):
        count = sum(len(item.ids) for item in tokens)
        begin = max(self.clock.now, self.passes[-1][1] if self.passes else 0.0)
        odd = self.outliers and len(self.passes) % self.outliers == 0
        end = begin + self.takes(count) * (10 if odd else 1)
        self.passes.append((begin, end, count))
        if not self.late:
            self.clock.now = end
        return Rows(self, len(tokens), end)

    def activate(self):
        return nullcontext()

    def is_fatal(self, error):
        return False


class Caller:
    """A call that comes at `when`; `lengths` of its texts; `end` is set when it has its rows."""

    def __init__(self, when, lengths, end=None):
        self.when, self.lengths, self.end = when, lengths, end

    @property
    def waited(self):
        return self.end - self.when


def simulate(engine, callers, until=float("inf")):
    """Let the callers come, and compute until all have their rows, or until a time."""
    batcher = Batcher(engine, set(), Room(), engine.clock)
    waiting = sorted(callers, key=lambda caller: caller.when)
    running = None
    while engine.clock.now < until:
        while waiting and waiting[0].when <= engine.clock.now:
            _submit(batcher, engine, waiting.pop(0))
        batch = batcher.next()
        if batch is None and running is None:
            if not waiting:
                break
            engine.clock.now = waiting[0].when
            continue
        launched = batcher.launch(batch) if batch else None
        if running is not None:
            batcher.deliver(running)
        running = launched
        if running is not None and is_ready(running):
            batcher.deliver(running)
            running = None
    return batcher


def _submit(batcher, engine, caller):
    priority = "interactive" if batcher.pace.is_little(sum(caller.lengths)) else "bulk"
    job = Job([Tokens([0] * length) for length in caller.lengths], priority)
    job.future.add_done_callback(lambda _: setattr(caller, "end", engine.clock.now))
    batcher.add(job)


def computed(engine, begin, end):
    """Return how many tokens of passes of more than 64 an engine computed between two times."""
    return sum(tokens for low, high, tokens in engine.passes if low >= begin and high <= end and tokens > 64)


def waits(callers):
    """Return the median and the 95th percentile of the seconds that callers waited."""
    seconds = [caller.waited for caller in callers]
    return median(seconds), quantiles(seconds, n=20)[-1]
