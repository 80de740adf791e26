"""A job: plan, start workers, hand out ranges until each has its part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import InputFile, Range, find_files
from zh_retrieval.distributed.job.worker import Done, RangeWorker, Work, check_alike, plan_file
from zh_retrieval.distributed.resources import Workers, connected, nodes, plan_workers

_AT_ONCE = 2  # ranges of one worker: one is read or written while the other is computed
_DEATHS = 5  # workers that may die over one range, or while loading
_WRITES = 3  # ranges in a row that cannot be written before the job ends
_PATIENCE = 30.0  # seconds without any worker before something is said

Say = Callable[[str], object]


@dataclass
class Summary:
    """What a job did.

    Attributes:
        rows: Rows written by this run.
        bad: Rows among them without a vector.
        parts: Parts written by this run.
        kept: Parts that were there.
        failures: What has no part, and why; each a line.
        deaths: Workers that died and were replaced.
        workers: How many there were, and what each had.
        seconds: From the first worker's start to the last part.
        stages: Seconds of all workers together by stage: load, read, embed, write.
    """

    rows: int = 0
    bad: int = 0
    parts: int = 0
    kept: int = 0
    failures: list[str] = field(default_factory=list)
    deaths: int = 0
    workers: Workers | None = None
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def spent(self, seconds: dict[str, float]) -> None:
        """Add the seconds of a range."""
        for stage, value in seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + value


@dataclass(frozen=True, slots=True)
class Size:
    """How a job is cut, and what it asks of the cluster: None lets the cluster decide."""

    rows: int
    workers: int | None = None
    cpus: int | None = None


def embed_files(
    inputs: Sequence[str], work: Work, job: dict[str, Any], size: Size, *,
    address: str | None, restart: bool, say: Say, advance: Callable[[int], None],
) -> Summary:  # fmt: skip
    """Embed files into the parts of a folder, each row once, however often this was killed before.

    Args:
        inputs: Files, folders, patterns, URIs.
        work: What a worker is told.
        job: What tells this job from another: a folder with parts of another is refused.
        size: How the work is cut.
        address: As for `connected`.
        restart: Drop the parts that are there.
        say: Takes lines about what goes wrong.
        advance: Is told how many rows were written.

    Raises:
        InputError: An input means no file, or workers would not compute alike.
        ConfigError: The folder is another job's.
        ZhRetrievalError: The model cannot be loaded.
    """
    files = find_files(inputs)
    folder = PartFolder(work.output)
    told = [(file.name, file.size, file.modified) for file in files]
    folder.claim({**job, "inputs": told, "part_rows": size.rows}, restart=restart)
    finished = False
    try:
        with connected(address) as ray:
            summary = _Run(ray, work, folder, size, say, advance).run(files)
        finished = not summary.failures
    finally:
        folder.release(finished=finished)
    return summary


class _Run:
    def __init__(
        self, ray: Any, work: Work, folder: PartFolder, size: Size, say: Say, advance: Callable[[int], None]
    ) -> None:
        self._ray = ray
        self._folder = folder
        self._size = size
        self._say = say
        self._advance = advance
        self._workers = plan_workers(nodes(ray), size.workers, size.cpus, str(work.options.get("device", "auto")))
        self._work = work
        self._summary = Summary(workers=self._workers)
        self._waiting: deque[Range] = deque()
        self._suspects: deque[Range] = deque()  # they were with a worker that died: each is now tried alone
        self._died: dict[str, int] = {}  # part -> workers that died over it
        self._flying: dict[Any, tuple[Any, Range | None]] = {}  # result -> worker, its range or None while it loads
        self._expected: dict[str, Any] | None = None
        self._unwritten = 0
        self._failed_loads = 0

    def run(self, files: list[InputFile]) -> Summary:
        there = self._folder.parts()
        for part in self._planned(files):
            if part.part in there:
                self._summary.kept += 1
            else:
                self._waiting.append(part)
        begun = time.monotonic()
        try:
            if self._waiting:
                for _ in range(min(self._workers.count, len(self._waiting))):
                    self._start()
                self._loop()
        finally:
            for worker in {id(worker): worker for worker, _ in self._flying.values()}.values():
                self._ray.kill(worker)
        self._summary.seconds = time.monotonic() - begun
        return self._summary

    def _planned(self, files: list[InputFile]) -> list[Range]:
        planning = self._ray.remote(plan_file)
        found: list[Range] = []
        results = [planning.remote(file, self._size.rows) for file in files]
        if not self._ray.wait(results, timeout=_PATIENCE)[0]:
            self._say("the cluster has no CPU that is free: waiting for one")
        for file, result in zip(files, results, strict=True):
            ranges = self._ray.get(result)
            if isinstance(ranges, str):
                self._fail(f"{file.name}: {ranges}")
            else:
                found += ranges
        return found

    def _start(self) -> None:
        actor = self._ray.remote(RangeWorker).options(
            num_cpus=self._workers.cpus, num_gpus=self._workers.gpus, max_concurrency=_AT_ONCE, max_restarts=0
        )
        worker = actor.remote(self._work, self._workers.cpus)
        self._flying[worker.load.remote(self._expected)] = (worker, None)

    def _loop(self) -> None:
        begun, waited = time.monotonic(), False
        while self._flying and (self._waiting or self._suspects or self._busy()):
            ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=1.0)
            if self._expected is None and not waited and time.monotonic() - begun > _PATIENCE:
                self._say(
                    f"no worker has started yet: each needs {self._workers.cpus} CPUs and {self._workers.gpus} GPUs, "
                    "and its weights"
                )
                waited = True
            for result in ready:
                worker, part = self._flying.pop(result)
                self._landed(worker, part, result)

    def _busy(self) -> bool:
        return any(part is not None for _, part in self._flying.values())

    def _landed(self, worker: Any, part: Range | None, result: Any) -> None:
        exceptions = self._ray.exceptions
        try:
            value = self._ray.get(result)
        except exceptions.RayTaskError as error:
            raise error.cause if isinstance(getattr(error, "cause", None), Exception) else error from None
        except exceptions.RayError as error:
            self._lost(worker, part, str(error).splitlines()[0])
            return
        if part is None:
            computes, seconds = value
            self._summary.spent({"load": seconds})
            self._failed_loads = 0
            if self._expected is None:
                self._expected = self._folder.agree(computes)
                check_alike(self._expected, computes)
        else:
            self._finished(part, value)
        self._hand_out(worker)

    def _finished(self, part: Range, done: Done) -> None:
        self._summary.spent(done.seconds)
        if done.failure is None:
            self._summary.rows += done.rows
            self._summary.bad += done.bad
            self._summary.parts += 1
            self._unwritten = 0
            for line in done.said:
                self._say(f"no vector: {line}")
            self._advance(done.rows)
            return
        self._fail(f"{part}: {done.failure}")
        if done.stage == "write":
            self._unwritten += 1
            if self._unwritten >= _WRITES:
                left = len(self._waiting) + len(self._suspects)
                self._fail(f"{self._unwritten} parts in a row could not be written: {left} more were not tried")
                self._waiting.clear()
                self._suspects.clear()

    def _fail(self, line: str) -> None:
        self._summary.failures.append(line)
        self._say(f"failed: {line}")

    def _lost(self, worker: Any, part: Range | None, reason: str) -> None:
        """Replace a worker that died, and try what it had again; who killed several is left out."""
        lost = [(result, lost) for result, (other, lost) in self._flying.items() if other is worker]
        for result, _ in lost:
            del self._flying[result]
        self._ray.kill(worker)
        self._summary.deaths += 1
        over = [found for found in (part, *(found for _, found in lost)) if found is not None]
        if not over:
            self._failed_loads += 1
            if self._failed_loads >= _DEATHS:
                raise RuntimeError(f"{_DEATHS} workers in a row died while they loaded the model: {reason}")
        for found in over:
            self._died[found.part] = self._died.get(found.part, 0) + 1
            if self._died[found.part] >= _DEATHS:
                self._fail(f"{found}: {_DEATHS} workers died over it ({reason})")
            else:
                self._suspects.append(found)
        self._start()

    def _hand_out(self, worker: Any) -> None:
        """Give a worker what it has room for; a suspect is its only range, so that it takes nothing else with it."""
        having = [part for other, part in self._flying.values() if other is worker and part is not None]
        if any(part.part in self._died for part in having):
            return
        while self._waiting and len(having) < _AT_ONCE:
            having.append(self._waiting.popleft())
            self._flying[worker.embed.remote(having[-1])] = (worker, having[-1])
        if not having and self._suspects:
            part = self._suspects.popleft()
            self._flying[worker.embed.remote(part)] = (worker, part)
