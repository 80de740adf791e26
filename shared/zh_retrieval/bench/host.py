"""A side in a process of its own, asked over its standard input and output.

Engines in one process disturb each other: each leaves a team of threads, and with more of them than cores every
parallel region starts with a system call. Users run one engine, so each is measured as it runs alone; a peer may live
in another environment.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import time
import warnings
from textwrap import shorten
from typing import IO, Any

from zh_retrieval.bench.peers import load
from zh_retrieval.bench.sides import Ours, Side, SideSpec
from zh_retrieval.errors import ConfigError

_LINE = 200  # characters of a note


class SideError(Exception):
    """A side could not be loaded, or failed; the message is its own."""


class Host:
    """Owns the process of one side.

    Attributes:
        versions: Of the packages that compute there.
    """

    def __init__(self, side: SideSpec) -> None:
        """Start the process and load the side.

        Raises:
            SideError: Loading failed.
        """
        command = [side.python or sys.executable, "-m", __name__]
        self._name = side.name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.versions: dict[str, str] = self._exchange(side)

    def ask(self, what: str, *arguments: Any) -> tuple[float, Any]:
        """Return the seconds that the call took within its process, and its result."""
        seconds, result = self._exchange((what, arguments))
        return seconds, result

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=10)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.wait()

    def _exchange(self, message: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, message)
            failure, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise SideError(f"{self._name}: its process ended (exit code {self._process.wait()})") from None
        if failure is not None:
            raise SideError(f"{self._name}: {one_line(failure)}")
        return answer


def missing_in(python: str) -> dict[str, list[str]]:
    """Return the modules that each peer needs and another environment has not.

    Raises:
        ConfigError: It is no interpreter, or has not this package.
    """
    code = "import json; from zh_retrieval.bench.peers import missing; print(json.dumps(missing()))"
    try:
        run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise ConfigError(
            f"--peers-python {python}: {said}. Give the Python of an environment that has the peers and this package "
            "(`pip install --no-deps zh-retrieval`)."
        ) from error
    found: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return found


def one_line(text: str) -> str:
    """Return the beginning of a message, its white space as single spaces."""
    return shorten(text, _LINE, placeholder=" …")


def _send(file: IO[bytes], message: Any) -> None:
    pickle.dump(message, file)
    file.flush()


def _serve() -> None:
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # the peers' bars and notes, those of native code too
        os.dup2(nowhere, stream.fileno())
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        spec: SideSpec = pickle.load(asked)
        side, versions = load(spec)
        _send(answers, (None, versions))
        while True:
            what, arguments = pickle.load(asked)
            _send(answers, (None, _do(side, what, arguments)))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
    except Exception as error:
        _send(answers, (f"{type(error).__name__}: {error}", None))


def _do(side: Side, what: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
    if what == "queries":
        return _queries(side, *arguments)
    if what in ("tune", "encode", "score"):
        start = time.perf_counter()
        result = getattr(side, what)(*arguments)
        return time.perf_counter() - start, result
    from zh_retrieval.bench import concurrency

    assert isinstance(side, Ours)
    return 0.0, concurrency.MEASURES[what](side.handle, *arguments)


def _queries(side: Side, text: str, count: int) -> tuple[float, list[float]]:
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        side.query(text)
        seconds.append(time.perf_counter() - start)
    return sum(seconds), seconds[1:]  # the first one pays for waking up


if __name__ == "__main__":
    _serve()
