"""Engines that compute nothing: the scheduler's tests decide when a batch is ready and how it ends."""

import threading
from contextlib import nullcontext

import numpy as np

from zh_retrieval.sequence import Tokens


class Rows:
    """Pending rows as a device has them: not ready before they are asked for, if `late`."""

    def __init__(self, engine, ids, rows, late):
        self.engine, self.ids, self.rows, self.ready = engine, ids, rows, not late

    def result(self):
        self.engine.before_result(self.ids)
        self.ready = True
        return self.rows


class FakeEngine:
    """Gives each sequence its first id; holds batches until released; fails or gives NaN on chosen ids.

    Attributes:
        late: Rows are not ready when `launch` returns, as on CUDA, so that batches overlap.
        batches: The first ids of each batch, in order.
    """

    width = 1
    dtype = "float32"
    device = "cpu"

    def __init__(self, max_batch_tokens=8, held=False, late=False):
        self.max_batch_tokens = max_batch_tokens
        self.late = late
        self.batches = []
        self.lengths = []
        self.gate = threading.Event()
        self.started = threading.Event()
        self.error = ValueError("666")
        if not held:
            self.gate.set()

    def launch(self, tokens):
        self.started.set()
        assert self.gate.wait(10)
        ids = [item.ids[0] for item in tokens]
        self.batches.append(ids)
        self.lengths.append([len(item.ids) for item in tokens])
        if 666 in ids:
            raise self.error
        rows = [[np.nan if item.ids[0] == 1313 else item.ids[0]] for item in tokens for _ in range(item.rows)]
        return Rows(self, ids, np.array(rows, dtype=np.float32).reshape(-1, 1), self.late)

    def before_result(self, ids):
        if 667 in ids:  # what a device says of a batch only when its rows are read
            raise self.error

    def activate(self):
        return nullcontext()

    def is_fatal(self, error):
        return "fatal" in str(error)


def sequences(*ids, length=2):
    return [Tokens([number] * length) for number in ids]
