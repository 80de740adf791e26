"""Load on a server of bge-base's size: `python -m tests.server.load`, on a quiet machine, some minutes.

Throughput of 200 concurrent queries beside the same work in one process, what a query costs more over HTTP, and how
soon /livez answers in a flood of bulk requests. The server is a process of its own; the client is aiohttp, which costs
0.3 ms of a core a request where httpx with 200 connections costs 6 and more, which the server would be blamed for.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import numpy as np

import zh_retrieval as zr
from zh_retrieval.bench import random_weights, workload

MODEL = "bge-base-zh"
CONCURRENT, ROUNDS = 200, 5
THROUGHPUT, OVERHEAD, LIVENESS = 0.9, 3.0, 50.0  # share of the process's own; milliseconds; milliseconds


def main() -> int:
    """Measure, print, and return 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="weights of bge-base-zh; random ones by default")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch) / MODEL
            random_weights.write(zr.get_spec(MODEL), folder)
        command = [
            sys.executable,
            "-m",
            "zh_retrieval.cli.main",
            "serve",
            "--port",
            "0",
            "--model",
            f"{MODEL}={folder}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                with zr.load_encoder(MODEL, path=folder) as encoder:
                    failures = asyncio.run(_measured(url, encoder))
            finally:
                server.terminate()
    print("ok" if not failures else f"FAILED: {', '.join(failures)}")
    return bool(failures)


async def _measured(url: str, encoder: zr.Encoder) -> list[str]:
    """Take turns between the process and the server, so that both meet the same machine."""
    queries = workload.queries(CONCURRENT)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=CONCURRENT)) as client:

        async def remote(query: str) -> np.ndarray:
            body = {"model": f"{MODEL}-query", "input": query, "encoding_format": "float"}
            async with client.post("/v1/embeddings", json=body) as answer:
                assert answer.status == 200
                return np.array((await answer.json())["data"][0]["embedding"], np.float32)

        async def local(query: str) -> np.ndarray:
            vector: np.ndarray = (await encoder.aencode_queries([query]))[0]
            return vector

        far = max([float(1 - await remote(query) @ await local(query)) for query in queries[:20]])
        assert far < 1e-3, f"another vector over HTTP: off by {far}"

        rates: dict[str, list[float]] = {"process": [], "server": []}
        for _ in range(ROUNDS):
            for name, ask in (("process", local), ("server", remote)):
                start = time.perf_counter()
                await asyncio.gather(*map(ask, queries))
                rates[name].append(CONCURRENT / (time.perf_counter() - start))
                await asyncio.sleep(1)
        alone: dict[str, list[float]] = {"process": [], "server": []}
        for query in queries:
            for name, ask in (("process", local), ("server", remote)):
                alone[name].append(await _milliseconds(ask, query))
        alive = await _flooded(client)
    share = statistics.median(rates["server"]) / statistics.median(rates["process"])
    medians = {name: statistics.median(times) for name, times in alone.items()}
    more = statistics.median(there - here for here, there in zip(alone["process"], alone["server"], strict=True))
    p99 = sorted(alive)[int(0.99 * len(alive))]
    print(f"{CONCURRENT} concurrent queries: {statistics.median(rates['process']):.1f}/s in the process, ", end="")
    print(f"{statistics.median(rates['server']):.1f}/s over HTTP: {share:.2f}")
    print(
        f"one query: {medians['process']:.2f} ms in the process, {medians['server']:.2f} ms over HTTP: +{more:.2f} ms"
    )
    print(f"/livez in a flood of bulk requests: median {statistics.median(alive):.1f} ms, ", end="")
    print(f"p99 {p99:.1f} ms of {len(alive)}")
    failures = {"throughput": share < THROUGHPUT, "overhead": more > OVERHEAD, "liveness": p99 > LIVENESS}
    return [name for name, failed in failures.items() if failed]


async def _milliseconds(ask: Callable[[str], Awaitable[object]], query: str) -> float:
    start = time.perf_counter()
    await ask(query)
    return 1000 * (time.perf_counter() - start)


async def _flooded(client: aiohttp.ClientSession) -> list[float]:
    """Return how many milliseconds /livez took, each time, while bulk requests are computed."""
    texts = workload.texts(1000)

    async def bulk(part: list[str]) -> None:
        async with client.post("/v1/embeddings", json={"input": part}) as answer:
            assert len((await answer.json())["data"]) == len(part)

    async def alive(_: str) -> None:
        async with client.get("/livez") as answer:
            assert answer.status == 200

    work = asyncio.gather(*(bulk(texts[low : low + 100]) for low in range(0, len(texts), 100)))
    times = []
    while not work.done():
        times.append(await _milliseconds(alive, ""))
        await asyncio.sleep(0.02)
    await work
    return times


if __name__ == "__main__":
    sys.exit(main())
