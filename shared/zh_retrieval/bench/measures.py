"""Sides measured in turn, A B A B, their results compared first; every figure is a median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from zh_retrieval.bench import workload
from zh_retrieval.bench.host import Host
from zh_retrieval.bench.random_weights import floating_operations
from zh_retrieval.bench.sides import OURS
from zh_retrieval.recipes.spec import ModelSpec

Row = dict[str, Any]

_BLOCK = 10  # queries of one side before the next one has its turn
_EVERY = 0.15  # seconds from one query to the next, behind a bulk job
_PAUSE = 0.2  # seconds before each turn, in which threads of the one before stop to spin


def throughput(hosts: Mapping[str, Host], texts: list[str], rounds: int) -> list[Row]:
    """Return a row for each side: seconds for the texts, and how its vectors agree with the first side's."""
    batches = {name: host.ask("tune", texts)[1] for name, host in hosts.items()}
    results = {name: host.ask("encode", texts)[1] for name, host in hosts.items()}
    seconds = _in_turn(hosts, "encode", texts, rounds)
    reference = next(iter(results.values()))
    return [
        _timed(name, seconds, len(texts))
        | {
            "batch_size": batches[name],
            "min_cosine": float((results[name] * reference).sum(axis=1).min()),
            "max_difference": float(np.abs(results[name] - reference).max()),
        }
        for name in hosts
    ]


def reranking(hosts: Mapping[str, Host], count: int, rounds: int) -> list[Row]:
    """Return a row for each side: seconds for `count` pairs, and how its scores agree with the first side's."""
    pairs = workload.pairs(count)
    results = {name: host.ask("score", pairs)[1] for name, host in hosts.items()}
    seconds = _in_turn(hosts, "score", pairs, rounds)
    reference = next(iter(results.values()))
    return [
        _timed(name, seconds, len(pairs))
        | {
            "max_difference": float(np.abs(results[name] - reference).max()),
            "widest_swap": widest_swap(reference, results[name]),
        }
        for name in hosts
    ]


def latency(hosts: Mapping[str, Host], count: int) -> list[Row]:
    """Return a row for each side: the median milliseconds of one short query, warm."""
    query = "如何申请护照换发？"
    seconds: dict[str, list[float]] = {name: [] for name in hosts}
    for host in hosts.values():
        host.ask("queries", query, _BLOCK)
    for _ in range(max(1, count // _BLOCK)):
        for name, host in hosts.items():
            time.sleep(_PAUSE)
            seconds[name] += host.ask("queries", query, _BLOCK)[1]
    first = statistics.median(next(iter(seconds.values())))
    return [
        {
            "side": name,
            "milliseconds": statistics.median(found) * 1000,
            "slowest_ms": max(found) * 1000,
            "ratio": first / statistics.median(found),
        }
        for name, found in seconds.items()
    ]


def shares(rows: list[Row], hosts: Mapping[str, Host], spec: ModelSpec, texts: list[str]) -> None:
    """Add tokens/s and the share of this machine's matrix-product rate to every row.

    The rate is that of the dtype that "auto" computes in, or else of the first of our sides, for all sides alike: one
    that computes in int8 may have more than all of it.
    """
    ours = [name for name in hosts if name.startswith(OURS)]
    name = next((name for name in ours if name.endswith(" auto")), ours[0])
    lengths = hosts[name].ask("token_lengths", texts)[1]
    operations = floating_operations(spec, lengths)
    rate = hosts[name].ask("matrix_rate", spec.shape["hidden_size"], spec.shape["intermediate_size"])[1]
    for row in rows:
        row["tokens_per_second"] = sum(lengths) / row["seconds"]
        row["tera_operations_per_second"] = operations / row["seconds"] / 1e12
        row["matrix_rate_tera"] = rate / 1e12
        row["share_of_matrix_rate"] = operations / row["seconds"] / rate


def concurrency(host: Host, spec: ModelSpec, bulk: int) -> Row:
    """Return what concurrent callers of one side feel."""
    queries = workload.queries(64)
    found: Row = {"scheduler_overhead_ms": host.ask("scheduler_overhead", 2000)[1]}
    bare = "" if spec.takes_instruction else None
    found["gathered"] = host.ask("gathered", queries, bare)[1]
    if spec.takes_instruction:
        found["gathered_with_instruction"] = host.ask("gathered", queries, None)[1]
    found["behind_bulk"] = host.ask("behind_bulk", workload.even_texts(bulk), queries[0], _EVERY)[1]
    return found


def widest_swap(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the largest difference in `reference`, float32 (N,), of two items that `scores` orders the other way."""
    order = np.argsort(-scores, kind="stable")
    best_after = np.maximum.accumulate(reference[order][::-1])[::-1]  # the best reference score from here on
    return float(np.max(best_after - reference[order]))


def _in_turn(hosts: Mapping[str, Host], what: str, argument: Any, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in hosts}
    for _ in range(rounds):
        for name, host in hosts.items():
            time.sleep(_PAUSE)
            seconds[name].append(host.ask(what, argument)[0])
    return seconds


def _timed(name: str, seconds: dict[str, list[float]], count: int) -> Row:
    first, own = statistics.median(next(iter(seconds.values()))), statistics.median(seconds[name])
    return {"side": name, "seconds": own, "all_seconds": seconds[name], "per_second": count / own, "ratio": first / own}
