"""Ranges to workers: start them, hand out, replace those that die, and end where nothing more can come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zh_retrieval.distributed.job.agreement import check_alike
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import Piece
from zh_retrieval.distributed.job.summary import Say, Summary
from zh_retrieval.distributed.job.worker import Done, RangeWorker, Work
from zh_retrieval.distributed.resources import Workers, nodes
from zh_retrieval.errors import ConfigError, ZhRetrievalError

_AT_ONCE = 2  # ranges of one worker: one is read or written while the other is computed
_DEATHS = 5  # workers that may die over one range, or while loading
_WRITES = 3  # ranges in a row that cannot be written before the job ends
_FAILURES = 100  # ranges in a row without a part, of whatever reason, before the job ends
_PATIENCE = 30.0  # seconds without any worker before something is said
_LOOK = 5.0  # seconds between two looks at the machines


class Dispatch:
    """The workers of one job and their ranges. A worker is compared with the job before it gets its first range."""

    def __init__(
        self, ray: Any, work: Work, folder: PartFolder, workers: Workers, summary: Summary,
        say: Say, advance: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Take what is done, where, by how many; `say` and `advance` are told how it goes."""
        self._ray = ray
        self._work = work
        self._folder = folder
        self._workers = workers
        self._summary = summary
        self._say = say
        self._advance = advance
        self._waiting: deque[Piece] = deque()
        self._suspects: deque[Piece] = deque()  # they were with a worker that died: each is now tried alone
        self._died: dict[Piece, int] = {}  # workers that died over it
        self._flying: dict[Any, tuple[Any, Piece | None]] = {}  # result -> worker, its range or None while it loads
        self._ready: list[Any] = []  # workers that have loaded, and live
        self._expected: dict[str, Any] | None = None  # how the parts of this folder are computed
        self._identity = ""
        self._written: list[str] = []
        self._unwritten = self._failed = self._failed_loads = 0
        self._ended = self._said_no_id = False

    def run(self, ranges: list[Piece]) -> list[str]:
        """Make the parts of ranges, and return the names of those that workers say they wrote.

        Raises:
            ZhRetrievalError: The weights cannot be loaded, or a worker computes otherwise than the job's parts were.
        """
        self._waiting.extend(ranges)
        try:
            for _ in range(min(self._workers.count, len(ranges))):
                self._start()
            self._loop()
        finally:
            for worker in {id(worker): worker for worker, _ in self._flying.values()}.values():
                self._ray.kill(worker)
        return self._written

    def _start(self) -> None:
        actor = self._ray.remote(RangeWorker).options(
            num_cpus=self._workers.cpus, num_gpus=self._workers.gpus, max_concurrency=_AT_ONCE, max_restarts=0
        )
        worker = actor.remote(self._work, self._workers.cpus)
        self._flying[worker.load.remote()] = (worker, None)

    def _loop(self) -> None:
        looked = since = time.monotonic()
        patience = _PATIENCE
        while self._flying and not self._ended and (self._waiting or self._suspects or self._busy()):
            ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=1.0)
            for result in ready:
                worker, part = self._flying.pop(result)
                self._landed(worker, part, result)
            now = time.monotonic()
            if self._ready:
                since, patience = now, _PATIENCE
            elif now - since > patience:
                patience *= 2
                self._say(
                    f"no worker for {now - since:.0f} s: each needs {self._workers.cpus} CPUs and {self._workers.gpus} "
                    "GPUs of one machine, and its weights"
                )
            if now - looked > _LOOK:
                looked = now
                if not nodes(self._ray):
                    self._end("no machine of the cluster lives any more")

    def _busy(self) -> bool:
        return any(part is not None for _, part in self._flying.values())

    def _landed(self, worker: Any, part: Piece | None, result: Any) -> None:
        exceptions = self._ray.exceptions
        try:
            value = self._ray.get(result)
        except exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, (ZhRetrievalError, OSError)):
                raise cause from None
            raise ConfigError(f"A worker cannot start: {last_line(error)}") from error
        except exceptions.RayError as error:
            self._lost(worker, part, last_line(error))
            return
        if part is None:
            self._loaded(worker, *value)
        else:
            self._finished(part, value)
        self._hand_out(worker)

    def _loaded(self, worker: Any, computes: dict[str, Any], seconds: float) -> None:
        self._summary.spent({"load": seconds})
        self._failed_loads = 0
        if self._expected is None:
            self._expected = self._folder.agree(computes)
            self._identity = self._folder.identity
        check_alike(self._expected, computes)
        self._ready.append(worker)

    def _finished(self, part: Piece, done: Done) -> None:
        self._summary.spent(done.seconds)
        if done.failure is None:
            self._written.append(done.part)
            self._summary.add(done)
            self._unwritten = self._failed = 0
            for line in done.first_errors:
                self._say(f"no vector: {line}")
            if done.no_id is not None and not self._said_no_id:
                self._said_no_id = True
                self._say(
                    f"no id: {done.no_id}. The parts' ids say where rows stood. Say which field is the id with "
                    "--id-field NAME."
                )
            self._advance(done.rows)
            return
        self._summary.fail(f"{part}: {done.failure}", self._say)
        self._failed += 1
        self._unwritten += done.stage == "write"
        if self._unwritten >= _WRITES:
            self._stop(f"{self._unwritten} parts in a row could not be written")
        elif self._failed >= _FAILURES:
            self._stop(f"{self._failed} parts in a row failed")

    def _stop(self, reason: str) -> None:
        """Hand out no more; what is being computed still comes."""
        left = len(self._waiting) + len(self._suspects)
        self._waiting.clear()
        self._suspects.clear()
        self._summary.fail(f"{reason}: {left} more were not tried", self._say)

    def _end(self, reason: str) -> None:
        """Wait for nothing more."""
        lost = sum(part is not None for _, part in self._flying.values())
        self._summary.fail(
            f"{reason}: {len(self._waiting) + len(self._suspects) + lost} parts were not made", self._say
        )
        self._ended = True

    def _lost(self, worker: Any, part: Piece | None, reason: str) -> None:
        """Replace a worker that died, and try what it had again; who killed several is left out."""
        lost = [(result, lost) for result, (other, lost) in self._flying.items() if other is worker]
        for result, _ in lost:
            del self._flying[result]
        self._ray.kill(worker)
        self._ready = [other for other in self._ready if other is not worker]
        self._summary.deaths += 1
        over = [found for found in (part, *(found for _, found in lost)) if found is not None]
        if not over:
            self._failed_loads += 1
            if self._failed_loads >= _DEATHS:
                self._end(
                    f"{_DEATHS} workers in a row died while they loaded the model, as of too little memory ({reason})"
                )
                return
        for found in over:
            self._died[found] = self._died.get(found, 0) + 1
            if self._died[found] >= _DEATHS:
                self._summary.fail(f"{found}: {_DEATHS} workers died over it ({reason})", self._say)
            else:
                self._suspects.append(found)
        self._start()

    def _hand_out(self, worker: Any) -> None:
        """Give a worker what it has room for; a suspect is its only range, so that it takes nothing else with it."""
        having = [part for other, part in self._flying.values() if other is worker and part is not None]
        if any(part in self._died for part in having):
            return
        while self._waiting and len(having) < _AT_ONCE:
            having.append(self._waiting.popleft())
            self._give(worker, having[-1])
        if not having and self._suspects:
            self._give(worker, self._suspects.popleft())

    def _give(self, worker: Any, part: Piece) -> None:
        self._flying[worker.embed.remote(part, part.name(self._identity))] = (worker, part)


def last_line(error: Exception) -> str:
    """Return the line of Ray's message that says what happened, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
