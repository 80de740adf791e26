"""The running soak: its threads and event loops, what was done, and what went wrong."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import traceback
from collections import Counter
from typing import Any

import langchain_zh_retrieval
import llama_index_zh_retrieval
import zh_retrieval as zr
from tests.soak import actions
from tests.soak.kinds import Kind


class Soak:
    """The running soak: what was done, and what went wrong."""

    def __init__(self, kinds: list[Kind], trainings: list[Kind], seed: int) -> None:
        self.kinds = kinds
        self.trainings = trainings
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

    def overdue(self, longest: float) -> list[str]:
        now = time.monotonic()
        with self.lock:
            return [name for name, since in self.running.values() if now - since > longest]

    def sync_worker(self, number: int) -> None:
        choose = random.Random(self.seed * 1000 + number)
        while time.monotonic() < self.until and not self.failures:
            action = choose.choices(actions.SYNC, actions.SYNC_WEIGHTS)[0]
            key = self.begin(action.__name__)
            try:
                action(self, choose)
                self.end(key, "")
            except zr.ClosedError as error:  # another thread closed or unloaded what both use
                self.end(key, " (closed)")
                if action in actions.NEVER_CLOSED:
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
        action = choose.choice(actions.ASYNC)
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
