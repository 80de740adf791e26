"""Numbers for Prometheus, and how long a refused client should wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from zh_retrieval.server.http.problems import Problem
from zh_retrieval.server.models import watch
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.usage import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = tuple(4**power for power in range(1, 11))
_KINDS = {401: "Unauthorized", 408: "Timeout", 413: "TooLarge"}  # statuses that say more than the class of the error
_PASSES = {"batches": "Forward passes.", "batch_tokens": "Tokens of all forward passes."}

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self, served: Sequence[ServedModel[Any]], is_ready: Callable[[], bool]) -> None:
        """Count for these models; `is_ready` says what /readyz says."""
        self._served = served
        self._registry = registry = CollectorRegistry()
        prefix = "zh_retrieval_"
        self.requests = Counter(f"{prefix}requests", "Requests.", ("route", "status"), registry=registry)
        self.errors = Counter(f"{prefix}errors", "Refused and failed requests.", ("kind",), registry=registry)
        self._refused = Counter(
            f"{prefix}refused", "Requests and connections that were refused, by reason.", ("reason",), registry=registry
        )
        ready = Gauge(f"{prefix}ready", "1 where the server takes work, as /readyz says; else 0.", registry=registry)
        ready.set_function(lambda: 1.0 if is_ready() else 0.0)
        self.dropped = Counter(f"{prefix}dropped", "Requests whose client went away first.", registry=registry)
        self.under_way = 0
        in_flight = Gauge(f"{prefix}requests_in_flight", "Requests under way.", registry=registry)
        in_flight.set_function(lambda: self.under_way)
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
        self._seconds = Histogram(
            f"{prefix}model_seconds", "Time of a call, in the queue and computing.", ("model",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._queued = Histogram(
            f"{prefix}queue_seconds", "Time until a call's first forward pass.", ("model",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._computing = Histogram(
            f"{prefix}compute_seconds", "Time of a call after its first forward pass began.", ("model",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        queue = Gauge(f"{prefix}queue_tokens", "Tokens that wait.", ("model",), registry=registry)
        rate = Gauge(
            f"{prefix}tokens_per_second", "Computed while more waits; 0: unknown.", ("model",), registry=registry
        )
        for model in served:
            queue.labels(model.name).set_function(partial(_number, model, "waiting"))
            rate.labels(model.name).set_function(partial(_rate, model))
        registry.register(_Passes(prefix, served))
        ProcessCollector(registry=registry)

    def failed(self, problem: Problem) -> None:
        """Record a request that was refused, or failed."""
        kind = _KINDS.get(problem.status, problem.kind)
        self.errors.labels(kind).inc()
        if not problem.ours or problem.status == 503:
            self.refused(problem.code or kind)

    def refused(self, reason: str) -> None:
        """Record a request, or a connection, that was refused."""
        self._refused.labels(reason).inc()

    def computed(self, model: str, inputs: int, used: Usage, seconds: float) -> None:
        """Record a call that gave results after some seconds."""
        self._inputs.labels(model).inc(inputs)
        self._tokens.labels(model).inc(used.tokens)
        self._cut.labels(model).inc(used.cut)
        self._sizes.labels(model).observe(used.tokens)
        self._seconds.labels(model).observe(seconds)
        self._queued.labels(model).observe(used.queued)
        self._computing.labels(model).observe(max(0.0, seconds - used.queued))

    def retry_after(self) -> int:
        """Return after how many whole seconds the longest queue should be empty, at the measured rates."""
        return watch.retry_after(max((model.watch.wait for model in self._served), default=0.0))

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _Passes:
    """What only grows, read where it is counted."""

    def __init__(self, prefix: str, served: Sequence[ServedModel[Any]]) -> None:
        self._prefix = prefix
        self._served = served

    def collect(self) -> Iterator[Metric]:
        """Yield the counters."""
        for name, says in _PASSES.items():
            family = CounterMetricFamily(f"{self._prefix}{name}", says, labels=("model",))
            for model in self._served:
                family.add_metric((model.name,), _number(model, name))
            yield family


def _rate(model: ServedModel[Any]) -> float:
    return model.watch.rate or 0.0


def _number(model: ServedModel[Any], what: str) -> int:
    try:
        return int(getattr(model.handle, what, 0))
    except Exception:  # not loaded yet, or closed
        return 0
