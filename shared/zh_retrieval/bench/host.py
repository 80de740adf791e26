"""A side in a process of its own, asked over a pipe.

Engines in one process disturb each other: each leaves a team of OpenMP threads, and with more of them than cores every
parallel region starts with a system call. Users run one engine, so each is measured as it runs alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

from zh_retrieval.bench import concurrency
from zh_retrieval.bench.sides import Ours, Side, SideSpec


class SideError(Exception):
    """A side could not be loaded, or failed; the message is its own."""


class Host:
    """Owns the process of one side."""

    def __init__(self, side: SideSpec) -> None:
        """Start the process and load the side.

        Raises:
            SideError: Loading failed.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, side), daemon=True)
        self._process.start()
        theirs.close()
        self._answer(side.name)
        self._name = side.name

    def ask(self, what: str, *arguments: Any) -> tuple[float, Any]:
        """Return the seconds that the call took within its process, and its result."""
        self._pipe.send((what, arguments))
        seconds, result = self._answer(self._name)
        return seconds, result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.terminate()

    def _answer(self, name: str) -> Any:
        try:
            failure, answer = self._pipe.recv()
        except EOFError:
            raise SideError(f"{name}: its process ended (exit code {self._process.exitcode})") from None
        if failure is not None:
            raise SideError(f"{name}: {failure}")
        return answer


def _serve(pipe: Connection, spec: SideSpec) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, the peers' bars and notes
        side: Side = spec.load()
        pipe.send((None, None))
        while True:
            what, arguments = pipe.recv()
            pipe.send((None, _do(side, what, arguments)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send((f"{type(error).__name__}: {error}", None))


def _do(side: Side, what: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
    if what == "queries":
        return _queries(side, *arguments)
    if isinstance(side, Ours) and what in concurrency.MEASURES:
        return 0.0, concurrency.MEASURES[what](side.handle, *arguments)
    start = time.perf_counter()
    result = getattr(side, what)(*arguments)
    return time.perf_counter() - start, result


def _queries(side: Side, text: str, count: int) -> tuple[float, list[float]]:
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        side.query(text)
        seconds.append(time.perf_counter() - start)
    return sum(seconds), seconds[1:]  # the first one pays for waking up
