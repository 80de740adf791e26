"""Numbers for Prometheus, and how long a refused client should wait."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from zh_retrieval.server.served import Served
from zh_retrieval.usage import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = tuple(4**power for power in range(1, 11))
_WINDOW = 10.0  # seconds over which the rate is measured
_LONGEST_WAIT = 60  # seconds

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self, served: Sequence[Served[Any]]) -> None:
        self._served = served
        self._registry = registry = CollectorRegistry()
        prefix = "zh_retrieval_"
        self.requests = Counter(f"{prefix}requests", "Requests.", ("route", "status"), registry=registry)
        self.errors = Counter(f"{prefix}errors", "Refused and failed requests.", ("kind",), registry=registry)
        self.dropped = Counter(f"{prefix}dropped", "Requests whose client went away first.", registry=registry)
        self.under_way = 0
        flying = Gauge(f"{prefix}requests_in_flight", "Requests under way.", registry=registry)
        flying.set_function(lambda: self.under_way)
        self.stages = Histogram(
            f"{prefix}stage_seconds", "Time of a request in read, compute, write.", ("route", "stage"),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._inputs = Counter(f"{prefix}inputs", "Texts and pairs.", ("model",), registry=registry)
        self._tokens = Counter(f"{prefix}tokens", "Tokens computed.", ("model",), registry=registry)
        self._cut = Counter(f"{prefix}truncated_inputs", "Inputs that were cut.", ("model",), registry=registry)
        self._sizes = Histogram(
            f"{prefix}request_tokens", "Tokens of a request.", ("model",), buckets=_TOKENS, registry=registry
        )
        queue = Gauge(f"{prefix}queue_tokens", "Tokens that wait.", ("model",), registry=registry)
        batches = Gauge(f"{prefix}batches", "Forward passes so far.", ("model",), registry=registry)
        batched = Gauge(f"{prefix}batch_tokens", "Tokens of all forward passes.", ("model",), registry=registry)
        for model in served:
            queue.labels(model.name).set_function(partial(_number, model, "waiting"))
            batches.labels(model.name).set_function(partial(_number, model, "batches"))
            batched.labels(model.name).set_function(partial(_number, model, "batch_tokens"))
        self._recent = [(time.monotonic(), 0)]
        self._done = 0

    def computed(self, model: str, inputs: int, used: Usage) -> None:
        """Record a call that gave results."""
        self._inputs.labels(model).inc(inputs)
        self._tokens.labels(model).inc(used.tokens)
        self._cut.labels(model).inc(used.cut)
        self._sizes.labels(model).observe(used.tokens)
        self._done += used.tokens
        now = time.monotonic()
        if now - self._recent[-1][0] > _WINDOW / 10:
            self._recent = [entry for entry in self._recent if now - entry[0] < _WINDOW] or self._recent[-1:]
            self._recent.append((now, self._done))

    def retry_after(self) -> int:
        """Return after how many whole seconds the queue should be empty, from the rate of the last seconds."""
        waiting = sum(_number(model, "waiting") for model in self._served)
        since, before = self._recent[0]
        rate = (self._done - before) / max(0.1, time.monotonic() - since)
        return max(1, min(_LONGEST_WAIT, math.ceil(waiting / rate))) if rate else 1

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


def _number(model: Served[Any], what: str) -> int:
    try:
        return int(getattr(model.handle, what, 0))
    except Exception:  # not loaded yet, or closed
        return 0
