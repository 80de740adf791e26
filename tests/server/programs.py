"""Programs of ours that tests start, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.server.serving import wait_until

MARGIN = 2.0  # seconds after the drain's end at which the process is gone


class Program:
    """A process, and what it says on standard error."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "ZH_RETRIEVAL_API_KEY": "", **environment},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def listening(self) -> int:
        """Return the port that the log names, though no model is ready."""
        wait_until(lambda: "Listening on" in self.said, 60)
        return int(self.said.partition("http://127.0.0.1:")[2].partition(",")[0])

    def ended(self, drain: float) -> int:
        """Return the exit status; the process has `drain` seconds and a margin from now on."""
        begin = time.monotonic()
        status = self.process.wait(60)
        assert time.monotonic() - begin < drain + MARGIN
        self._reader.join(10)
        return status


@contextmanager
def program(*command: str, **environment: str) -> Iterator[Program]:
    started = Program(*command, **environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        started._reader.join(10)
        for stream in (started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()
