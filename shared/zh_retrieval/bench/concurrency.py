"""What concurrent callers feel, and the machine's own rate: measured inside the process of our side."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zh_retrieval.engine.scheduler import Scheduler
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.sequence import Tokens

_BEAT = 0.005  # seconds between two beats of the event loop's heart


def gathered(encoder: LocalEncoder, queries: list[str], instruction: str | None) -> dict[str, float]:
    """Return the seconds of the queries one after another and all at once, and the heart's latest beat (ms)."""

    async def ask(query: str) -> np.ndarray:
        return await encoder.aencode_queries([query], instruction=instruction)

    async def measure() -> dict[str, float]:
        await asyncio.gather(*map(ask, queries))
        start = time.perf_counter()
        alone = [(await ask(query))[0] for query in queries]
        one_by_one = time.perf_counter() - start
        start = time.perf_counter()
        merged, late = await _with_heartbeat(asyncio.gather(*map(ask, queries)))
        together = time.perf_counter() - start
        cosine = min(float(a @ b[0]) for a, b in zip(alone, merged, strict=True))
        return {
            "queries": len(queries), "one_by_one_s": one_by_one, "together_s": together,
            "speedup": one_by_one / together, "min_cosine": cosine, "heartbeat_late_ms": late * 1000,
        }  # fmt: skip

    return asyncio.run(measure())


def behind_bulk(encoder: LocalEncoder, texts: list[str], query: str, every: float) -> dict[str, float]:
    """Return what a query each `every` seconds waits while `texts` are embedded, and what it costs that job.

    Seconds: of the query alone (median of 10), behind the job (median, 95th percentile, longest); of the job alone, and
    while somebody asks until its end.
    """

    async def ask() -> float:
        start = time.perf_counter()
        await encoder.aencode_queries([query])
        return time.perf_counter() - start

    async def asked(waits: list[float]) -> None:
        while True:
            pause = asyncio.create_task(asyncio.sleep(every))
            waits.append(await ask())
            await pause

    async def measure() -> dict[str, float]:
        await ask()
        alone = statistics.median([await ask() for _ in range(10)])
        start = time.perf_counter()
        await encoder.aencode_documents(texts)
        job = time.perf_counter() - start
        waits: list[float] = []
        asking = asyncio.create_task(asked(waits))
        start = time.perf_counter()
        _, late = await _with_heartbeat(encoder.aencode_documents(texts))
        meanwhile = time.perf_counter() - start
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        waits = waits or [alone]  # a job that was over at once
        return {
            "queries": len(waits), "query_alone_s": alone, "query_wait_s": statistics.median(waits),
            "query_wait_p95_s": float(np.percentile(waits, 95)), "longest_wait_s": max(waits),
            "job_s": job, "job_meanwhile_s": meanwhile, "job_keeps": job / meanwhile, "heartbeat_late_ms": late * 1000,
        }  # fmt: skip

    return asyncio.run(measure())


async def _with_heartbeat(work: Awaitable[Any]) -> tuple[Any, float]:
    late = 0.0

    async def beat() -> None:
        nonlocal late
        while True:
            start = time.perf_counter()
            await asyncio.sleep(_BEAT)
            late = max(late, time.perf_counter() - start - _BEAT)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    result = await work
    heart.cancel()
    return result, late


class _NullRows:
    ready = True

    def __init__(self, count: int) -> None:
        self._count = count

    def result(self) -> np.ndarray:
        return np.zeros((self._count, 1), dtype=np.float32)


class _NullEngine:
    width = 1
    max_batch_tokens = 2048
    device, dtype = "cpu", "float32"

    def activate(self) -> AbstractContextManager[object]:
        return nullcontext()

    def is_fatal(self, error: BaseException) -> bool:
        return False

    def launch(self, tokens: Sequence[Tokens]) -> _NullRows:
        return _NullRows(len(tokens))


def scheduler_overhead(_: LocalEncoder, count: int) -> float:
    """Return the median milliseconds of one synchronous call through the scheduler with an engine that does nothing."""
    scheduler = Scheduler(_NullEngine())
    seconds = []
    for _call in range(count):
        start = time.perf_counter()
        scheduler.submit([Tokens([1, 2, 3])], "interactive").result()
        seconds.append(time.perf_counter() - start)
    scheduler.close()
    return statistics.median(seconds) * 1000


def matrix_rate(handle: Any, width: int, outputs: int) -> float:
    """Return FLOP/s of torch's own linear layer, 2048 rows, in the engine's dtype on its device."""
    with ThreadPoolExecutor(1) as own:  # a team of OpenMP threads in this one would slow all that is measured later
        return own.submit(_matrix_rate, handle, width, outputs).result()


def _matrix_rate(handle: Any, width: int, outputs: int) -> float:
    place = {"dtype": getattr(torch, handle.dtype), "device": torch.device(str(handle.device))}
    rows, weight = torch.randn(2048, width, **place), torch.randn(outputs, width, **place)
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        F.linear(rows, weight)
        if handle.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048 * width * outputs / statistics.median(seconds)


def token_lengths(handle: Any, texts: list[str]) -> list[int]:
    """Return how many tokens each text has, special tokens included."""
    tokenizer = handle._model.tokenizer
    return [min(handle.max_length, len(ids) + tokenizer.frame_length) for ids in tokenizer.ids(texts)]


MEASURES: dict[str, Callable[..., Any]] = {
    "gathered": gathered,
    "behind_bulk": behind_bulk,
    "scheduler_overhead": scheduler_overhead,
    "matrix_rate": matrix_rate,
    "token_lengths": token_lengths,
}
