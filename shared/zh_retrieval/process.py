"""What a fork and the end of the interpreter mean for our threads and locks."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

LockT = TypeVar("LockT")

_PATIENCE = 60.0  # seconds that the end of the interpreter waits for a thread that is being stopped

_LOCKS: list[Any] = []
_CHILD: list[Callable[[], None]] = []
_STOPPED: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def held_over_fork(lock: LockT) -> LockT:
    """Return the lock, which a fork from now on takes first and releases after: its data are whole in the child.

    For locks that are held for moments, never while something is loaded or computed.
    """
    _LOCKS.append(lock)
    return lock


class RenewedLock:
    """A lock that a forked child finds free, whoever held it in the parent: for what takes long, such as loading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._lock.release()


def in_child(reset: Callable[[], None]) -> None:
    """Call `reset` in every forked child, in the order of registration."""
    _CHILD.append(reset)


def at_exit(finish: Callable[[], None]) -> None:
    """Call `finish` when the interpreter ends, the last one registered first."""
    atexit.register(finish)


def stopped_at_exit(thread: threading.Thread) -> None:
    """Interrupt a daemon thread when the interpreter ends, and wait for it.

    A thread that is inside torch when the interpreter is gone takes the process down with "terminate called without an
    active exception". SystemExit is raised in it between two lines of Python.
    """
    _STOPPED.add(thread)


def _stop() -> None:
    end = time.monotonic() + _PATIENCE
    while (running := [thread for thread in list(_STOPPED) if thread.is_alive()]) and time.monotonic() < end:
        for thread in running:  # all of them each time: one may wait for another
            if thread.ident is not None:
                number = ctypes.c_ulong(thread.ident)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))
        running[0].join(0.1)


def _before() -> None:
    for lock in _LOCKS:
        lock.acquire()


def _release() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


def _after_in_child() -> None:
    _release()
    for reset in _CHILD:
        reset()


at_exit(_stop)
in_child(_STOPPED.clear)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_after_in_child)
