"""What a job did, for its last lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from zh_retrieval.distributed.job.worker import Done
from zh_retrieval.distributed.resources import Workers

Say = Callable[[str], object]


@dataclass
class Summary:
    """What a job did.

    Attributes:
        rows: Rows written by this run.
        bad: Rows among them without a vector.
        cut: Texts among them that were longer than the model reads.
        lost: Tokens that these lost, at least.
        parts: Parts written by this run.
        kept: Parts that were there.
        others: Parts of the folder that are of files which were not given.
        failures: What has no part, and why; each a line.
        deaths: Workers that died and were replaced.
        workers: How many there were, and what each had; None if none was needed.
        seconds: From the first worker's start to the last part.
        stages: Seconds of all workers together by stage: load, read, embed, write.
    """

    rows: int = 0
    bad: int = 0
    cut: int = 0
    lost: int = 0
    parts: int = 0
    kept: int = 0
    others: int = 0
    failures: list[str] = field(default_factory=list)
    deaths: int = 0
    workers: Workers | None = None
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def spent(self, seconds: dict[str, float]) -> None:
        """Add the seconds of a range."""
        for stage, value in seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + value

    def add(self, done: Done) -> None:
        """Count a part that was written."""
        self.parts += 1
        self.rows += done.rows
        self.bad += done.bad
        self.cut += done.cut
        self.lost += done.lost

    def fail(self, line: str, say: Say) -> None:
        """Keep and say what has no part."""
        self.failures.append(line)
        say(f"failed: {line}")
