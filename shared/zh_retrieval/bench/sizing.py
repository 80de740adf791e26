"""What a model needs on this machine: memory, work a core, one query. For whoever orders machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import zh_retrieval
from zh_retrieval.base import Encoder
from zh_retrieval.bench import workload
from zh_retrieval.engine.cpus import usable_cpus
from zh_retrieval.recipes.spec import ModelSpec

ItemT = TypeVar("ItemT")

_BATCH = 64  # texts or pairs of a call
_QUERIES = 20
_MOST = 4096  # texts at most, of a model that is quick


@dataclass(frozen=True, slots=True)
class Sizing:
    """What was measured.

    Attributes:
        model: Its name.
        what: "texts" of an embedder, "pairs" of a reranker: those of `bench`, 15 to 500 characters, 100 on average.
        device: Where it computed.
        dtype: In which numbers.
        threads: How many of them computed on a CPU.
        memory_bytes: The most that this process held, Python and all; None where the system does not say.
        load_seconds: Until it could be asked.
        per_second: Texts or pairs a second on all threads.
        per_core_second: Texts or pairs of a second of one core's time: what other work beside it takes is not in it.
        query_ms: The median time of one short query, or of one pair.
        count: How many texts or pairs the rates were measured with.
    """

    model: str
    what: str
    device: str
    dtype: str
    threads: int
    memory_bytes: int | None
    load_seconds: float
    per_second: float
    per_core_second: float
    query_ms: float
    count: int


def measure(spec: ModelSpec, options: dict[str, Any], *, seconds: float = 20.0) -> Sizing:
    """Return what a model needs. Memory is of this whole process: ask in a new one.

    Args:
        spec: The model.
        options: Load options.
        seconds: How long texts or pairs are computed, but for the call under way.

    Raises:
        ZhRetrievalError: The model cannot be loaded.
    """
    begun = time.perf_counter()
    load: Any = zh_retrieval.load_encoder if spec.task == "embedding" else zh_retrieval.load_reranker
    with load(spec, **options) as model:
        model.warmup()
        loaded = time.perf_counter() - begun
        if isinstance(model, Encoder):
            count, wall, cores = _rate(model.encode_documents, workload.texts(_MOST), seconds)
            query = _latency(model.encode_queries, workload.queries(_QUERIES))
        else:
            count, wall, cores = _rate(model.score, workload.pairs(_MOST), seconds)
            query = _latency(model.score, workload.pairs(_QUERIES))
        return Sizing(
            spec.name, "texts" if spec.task == "embedding" else "pairs", str(model.device), str(model.dtype),
            options.get("threads") or usable_cpus(), _most_memory(), loaded, count / wall, count / cores, query, count,
        )  # fmt: skip


def _rate(
    compute: Callable[[Sequence[ItemT]], object], items: Sequence[ItemT], seconds: float
) -> tuple[int, float, float]:
    """Return how many were computed, in how many seconds, and in how many of a core's; a first call does not count."""
    compute(items[:_BATCH])
    wall, cores, done = time.perf_counter(), time.process_time(), 0
    while done < len(items) and time.perf_counter() - wall < seconds:
        compute(items[done : done + _BATCH])
        done += len(items[done : done + _BATCH])
    return done, time.perf_counter() - wall, time.process_time() - cores


def _latency(compute: Callable[[Sequence[ItemT]], object], items: Sequence[ItemT]) -> float:
    compute(items[:1])
    taken = []
    for item in items:
        begun = time.perf_counter()
        compute([item])
        taken.append((time.perf_counter() - begun) * 1000)
    return median(taken)


def _most_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
