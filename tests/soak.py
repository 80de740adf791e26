"""Soak: everything at once for a long time, every result compared with serial reference results. Linux only.

    python -m tests.soak --minutes 20

Threads and asyncio tasks encode and score with shared and private handles and with the adapters of both frameworks,
cancel calls, give bad input, and load and unload models meanwhile. The time is cut into rounds. After each round every
thread has ended, every handle is closed, garbage is collected and glibc's free pages are handed back (`malloc_trim`):
what is then resident is what leaked or is kept on purpose. The first two rounds are the warm-up, since imports, kernel
caches, thread pools and heap arenas grow once; the baseline is measured after them. The soak fails if a result is
wrong, a call does not end, an error is of an unexpected type, or if resident memory or native threads end more than
5 % above the baseline.

oneDNN and torch keep a kernel for each size of a batch. The engine has few sizes, but rare ones come late, so the soak
sets both caches to 16 entries. glibc keeps freed pages by thread and by size, so what is resident would differ by a
tenth from round to round: one arena, and large blocks that go back when they are freed, make the rounds comparable.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import faulthandler
import gc
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}  # read when torch first computes

import numpy as np
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import langchain_zh_retrieval
import llama_index_zh_retrieval
import zh_retrieval as zr
from tests.contract.demo_corpus import FOLDER
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker

LIBC = ctypes.CDLL("libc.so.6")
WARM_UP_ROUNDS = 2
LONGEST_CALL = 600.0  # seconds after which a call counts as lost; a busy machine is slow, so wide
GROWTH = 1.05
BAD_TEXTS = (None, 3, b"x", "\ud800")


class WrongResultError(AssertionError):
    """A result differs from the serial reference."""


@dataclass
class Kind:
    """One way to load a model, its inputs, and the serial results."""

    label: str
    model: str
    options: dict[str, Any]
    tolerance: float  # float32: largest difference; else 1 - cosine
    exact: bool
    inputs: dict[str, list[Any]] = field(default_factory=dict)  # method -> inputs
    expected: dict[str, np.ndarray] = field(default_factory=dict)

    def open(self, **more: Any) -> Any:
        load = zr.load_encoder if zr.get_spec(self.model).task == "embedding" else zr.load_reranker
        return load(self.model, device="cpu", **(self.options | more))

    def check(self, method: str, rows: list[int], found: Any) -> None:
        found, expected = np.asarray(found, dtype=np.float32), self.expected[method][rows]
        if found.shape != expected.shape:
            raise WrongResultError(f"{self.label} {method}: shape {found.shape}, expected {expected.shape}")
        error = np.abs(found - expected) if self.exact else 1 - (found * expected).sum(-1)
        if error.size and error.max() > self.tolerance:
            raise WrongResultError(f"{self.label} {method}: off by {error.max():.2e}, allowed {self.tolerance:.0e}")


def make_kinds(folder: Path) -> list[Kind]:
    """Return the kinds with their references: every input alone, one after the other."""
    passages = [json.loads(line)["text"] for line in (FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = [
        json.loads(line)["text"] for line in (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    documents = ["", *passages, *("".join(passages[low : low + 9]) for low in range(0, 45, 9))]  # the last are cut
    texts = {"encode_queries": questions, "encode_documents": documents}
    pairs = {"score": [(question, passage) for question, passage in zip(questions, passages, strict=False)]}
    cross, causal = tiny_xlmr_reranker(folder / "cross"), tiny_causal_lm(folder / "causal")
    kinds = [
        Kind("float32", "e5-small-zh", {"dtype": "float32"}, 1e-5, True, texts),
        Kind("auto", "e5-small-zh", {}, 1e-3, False, texts),
        Kind("int8", "e5-small-zh", {"quantization": "int8"}, 1e-5, True, texts),
        Kind("cross-encoder", "bge-reranker-large", {"path": cross, "dtype": "float32"}, 2e-5, True, pairs),
        Kind("likelihood", "rankinggpt", {"path": causal, "dtype": "float32"}, 2e-5, True, pairs),
    ]
    for kind in kinds:
        with kind.open(private=True) as handle:
            for method, inputs in kind.inputs.items():
                rows = [getattr(handle, method)([one]) for one in inputs]
                kind.expected[method] = np.concatenate(rows)
    return kinds


class Soak:
    """The running soak: what was done, and what went wrong."""

    def __init__(self, kinds: list[Kind], seed: int) -> None:
        self.kinds = kinds
        self.seed = seed
        self.lock = threading.Lock()
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []
        self.running: dict[object, tuple[str, float]] = {}
        self.until = 0.0
        self.embedders = [
            langchain_zh_retrieval.ModelScopeEmbeddings("e5-small-zh", device="cpu", dtype="float32"),
            llama_index_zh_retrieval.ModelScopeEmbedding("e5-small-zh", device="cpu", dtype="float32"),
        ]
        path = kinds[3].options["path"]
        self.compressor = langchain_zh_retrieval.BGEReranker(path=path, device="cpu", dtype="float32")
        self.postprocessor = llama_index_zh_retrieval.BGEReranker(path=path, device="cpu", dtype="float32")

    def fail(self, what: str, error: BaseException | None) -> None:
        trace = "".join(traceback.format_exception(error)[-4:]) if error else ""
        with self.lock:
            self.failures.append(f"{what}: {error!r}\n{trace}")

    def begin(self, name: str) -> object:
        key = object()
        with self.lock:
            self.begun[name] += 1
            self.running[key] = (name, time.monotonic())
        return key

    def end(self, key: object, outcome: str) -> None:
        with self.lock:
            name, _ = self.running.pop(key)
            self.ended[f"{name}{outcome}"] += 1

    def overdue(self) -> list[str]:
        now = time.monotonic()
        with self.lock:
            return [name for name, since in self.running.values() if now - since > LONGEST_CALL]

    def sync_worker(self, number: int) -> None:
        choose = random.Random(self.seed * 1000 + number)
        while time.monotonic() < self.until and not self.failures:
            action = choose.choices(SYNC_ACTIONS, SYNC_WEIGHTS)[0]
            key = self.begin(action.__name__)
            try:
                action(self, choose)
                self.end(key, "")
            except zr.ClosedError as error:  # another thread closed or unloaded what both use
                self.end(key, " (closed)")
                if action in NEVER_CLOSED:
                    self.fail(action.__name__, error)
            except BaseException as error:
                self.end(key, " (failed)")
                self.fail(action.__name__, error)

    def async_worker(self, number: int) -> None:
        try:
            asyncio.run(self.tasks(random.Random(self.seed * 1000 + number)))
        except BaseException as error:
            self.fail("event loop", error)

    async def tasks(self, choose: random.Random) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.fail(str(context["message"]), context.get("exception")))
        while time.monotonic() < self.until and not self.failures:
            tasks = [asyncio.create_task(self.one_task(choose)) for _ in range(choose.randint(1, 8))]
            if choose.random() < 0.5:
                await asyncio.sleep(choose.random() * 0.05)
                for task in choose.sample(tasks, choose.randint(1, len(tasks))):
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def one_task(self, choose: random.Random) -> None:
        action = choose.choice(ASYNC_ACTIONS)
        key = self.begin(action.__name__)
        try:
            await action(self, choose)
            self.end(key, "")
        except asyncio.CancelledError:
            self.end(key, " (cancelled)")
            raise
        except (zr.ClosedError, asyncio.TimeoutError) as error:
            self.end(key, " (timed out)" if isinstance(error, asyncio.TimeoutError) else " (closed)")
        except BaseException as error:
            self.end(key, " (failed)")
            self.fail(action.__name__, error)

    def drawn(self, choose: random.Random, most: int = 16) -> tuple[Kind, str, list[int], list[Any]]:
        kind = choose.choice(self.kinds)
        method = choose.choice(list(kind.inputs))
        rows = [choose.randrange(len(kind.inputs[method])) for _ in range(choose.randint(0, most))]
        return kind, method, rows, [kind.inputs[method][row] for row in rows]


def shared_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    with kind.open() as handle:
        for _ in range(choose.randint(1, 4)):
            kind.check(method, rows, getattr(handle, method)(inputs))


def dropped_handle(soak: Soak, choose: random.Random) -> None:
    """Leave the lease to the garbage collector."""
    kind, method, rows, inputs = soak.drawn(choose)
    kind.check(method, rows, getattr(kind.open(), method)(inputs))


def private_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    with kind.open(private=True) as handle:
        kind.check(method, rows, getattr(handle, method)(inputs))
        if choose.random() < 0.3:
            handle.warmup()


def close_under_work(soak: Soak, choose: random.Random) -> None:
    """Close a private model while it computes: the call gives the right result or a ClosedError."""
    kind, method, rows, inputs = soak.drawn(choose, most=100)
    handle = kind.open(private=True)
    closer = threading.Timer(choose.random() * 0.2, handle.close)
    closer.start()
    try:
        kind.check(method, rows, getattr(handle, method)(inputs))
    except zr.ClosedError:
        pass
    finally:
        closer.join()


def bad_input(soak: Soak, choose: random.Random) -> None:
    """A bad input fails alone, with its index, while other callers go on."""
    kind, method, _, inputs = soak.drawn(choose)
    bad = choose.choice(BAD_TEXTS)
    where = choose.randint(0, len(inputs))
    inputs.insert(where, bad if method != "score" else (inputs[0][0] if inputs else "茶", bad))
    with kind.open() as handle:
        try:
            getattr(handle, method)(inputs)
        except zr.InputError as error:
            if f"[{where}]" not in str(error):
                raise WrongResultError(f"the index {where} is not in {error}") from error
        else:
            raise WrongResultError(f"{bad!r} was accepted")
    with kind.open(overflow="error") as strict:
        long = "今天天气" * 400
        try:
            getattr(strict, method)([long if method != "score" else (long, long)])
        except zr.InputError:
            return
        raise WrongResultError("an overlong text was accepted")


def adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[0]
    first, second = soak.embedders
    rows = [choose.randrange(len(kind.inputs["encode_documents"])) for _ in range(choose.randint(1, 20))]
    texts = [kind.inputs["encode_documents"][row] for row in rows]
    kind.check("encode_documents", rows, first.embed_documents(texts))
    kind.check("encode_documents", rows, second.get_text_embedding_batch(texts))
    row = choose.randrange(len(kind.inputs["encode_queries"]))
    kind.check("encode_queries", [row], [first.embed_query(kind.inputs["encode_queries"][row])])
    kind.check("encode_queries", [row], [second.get_query_embedding(kind.inputs["encode_queries"][row])])


def reranking_adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[3]
    row = choose.randrange(len(kind.inputs["score"]))
    query, text = kind.inputs["score"][row]
    kept = soak.compressor.compress_documents([Document(text)], query)
    kind.check("score", [row], [kept[0].metadata["relevance_score"]])
    nodes = soak.postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text=text))], QueryBundle(query))
    kind.check("score", [row], [nodes[0].score])


def unload(soak: Soak, choose: random.Random) -> None:
    choose.choice([*soak.embedders, soak.compressor, soak.postprocessor]).unload()


def close_everything(soak: Soak, choose: random.Random) -> None:
    zr.close_all()


async def task_of_a_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    handle = await asyncio.to_thread(kind.open)
    try:
        kind.check(method, rows, await getattr(handle, f"a{method}")(inputs))
    finally:
        handle.close()


async def task_with_a_deadline(soak: Soak, choose: random.Random) -> None:
    await asyncio.wait_for(task_of_a_handle(soak, choose), choose.random() * 0.2)


async def task_of_adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[0]
    row = choose.randrange(len(kind.inputs["encode_queries"]))
    text = kind.inputs["encode_queries"][row]
    found = await asyncio.gather(soak.embedders[0].aembed_query(text), soak.embedders[1].aget_query_embedding(text))
    kind.check("encode_queries", [row, row], found)
    pair = soak.kinds[3].inputs["score"][row]
    kept = await soak.compressor.acompress_documents([Document(pair[1])], pair[0])
    soak.kinds[3].check("score", [row], [kept[0].metadata["relevance_score"]])


SYNC_ACTIONS: list[Callable[[Soak, random.Random], None]] = [
    shared_handle, dropped_handle, private_handle, close_under_work, bad_input, adapters, reranking_adapters, unload,
    close_everything,
]  # fmt: skip
SYNC_WEIGHTS = [30, 10, 4, 4, 10, 10, 10, 1, 0.5]
NEVER_CLOSED = (private_handle, close_under_work)
ASYNC_ACTIONS = [task_of_a_handle, task_with_a_deadline, task_of_adapters]


def resident() -> float:
    """Return the resident memory of the process in MB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def at_rest(soak: Soak) -> tuple[float, int]:
    """Unload everything and return resident MB and native threads; check that no work is left over first."""
    for adapter in (*soak.embedders, soak.compressor, soak.postprocessor):
        adapter.unload()
    for kind in soak.kinds:
        with kind.open() as handle:
            for method, inputs in kind.inputs.items():
                rows = list(range(0, len(inputs), 8))
                try:
                    kind.check(method, rows, getattr(handle, method)([inputs[row] for row in rows]))
                except WrongResultError as error:
                    soak.fail("at rest", error)
            scheduler = handle._model.scheduler
            if scheduler._queued_tokens or any(scheduler._queues.values()):
                soak.fail(f"{kind.label}: {scheduler._queued_tokens} tokens are still queued", None)
            del scheduler, handle
    zr.close_all()
    gc.collect()
    LIBC.malloc_trim(0)
    time.sleep(0.5)
    return resident(), len(list(Path("/proc/self/task").iterdir()))


def run_round(soak: Soak, seconds: float, workers: int, number: int) -> None:
    """Run all threads for a while and wait for them; a call that does not end fails the soak at once."""
    soak.until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=target, args=(number * 100 + index,), daemon=True)
        for index, target in enumerate([*[soak.sync_worker] * workers, *[soak.async_worker] * 2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)
            if lost := soak.overdue():
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                sys.exit(f"FAILED: calls did not end within {LONGEST_CALL:.0f} s: {lost}")


def main() -> int:
    """Run the soak and return 0 if nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the time, two of them warm-up")
    parser.add_argument("--workers", type=int, default=4, help="threads beside the two event loops")
    parser.add_argument("--compute-threads", type=int, default=1, help="torch's threads for each forward pass")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("zh_retrieval").setLevel(logging.ERROR)  # the cut texts are meant
    torch.set_num_threads(options.compute_threads)
    LIBC.mallopt(-8, 1)  # M_ARENA_MAX
    LIBC.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, in bytes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(make_kinds(Path(folder)), options.seed)
        sys.unraisablehook = lambda raised: soak.fail(f"unraisable in {raised.object!r}", raised.exc_value)
        threading.excepthook = lambda raised: soak.fail(f"thread {raised.thread}", raised.exc_value)
        rests = []
        for number in range(options.rounds):
            run_round(soak, options.minutes * 60 / options.rounds, options.workers, number)
            rests.append(at_rest(soak))
            stage = "warm-up" if number < WARM_UP_ROUNDS else "round"
            calls = sum(soak.ended.values())
            print(f"{stage} {number + 1}: {calls} calls, {rests[-1][0]:.1f} MB, {rests[-1][1]} threads", flush=True)
            if soak.failures:
                break
    return summary(soak, rests)


def summary(soak: Soak, rests: list[tuple[float, int]]) -> int:
    """Print what was done and whether it held; return the exit status."""
    for name, count in sorted(soak.ended.items()):
        print(f"  {name}: {count}")
    baseline, last = rests[min(WARM_UP_ROUNDS, len(rests)) - 1], rests[-1]
    begun, ended = sum(soak.begun.values()), sum(soak.ended.values())
    checks = {
        f"{len(soak.failures)} wrong results or unexpected errors": not soak.failures,
        f"{begun - ended} of {begun} calls lost": begun == ended and not soak.running,
        f"resident memory {baseline[0]:.1f} MB -> {last[0]:.1f} MB": last[0] <= baseline[0] * GROWTH,
        f"native threads {baseline[1]} -> {last[1]}": last[1] <= baseline[1] * GROWTH,
    }
    for failure in soak.failures[:5]:
        print(failure)
    for what, held in checks.items():
        print(f"{'ok' if held else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
