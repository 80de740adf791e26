"""What a fork and the end of the interpreter mean for our threads and locks."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

LockT = TypeVar("LockT")

_PATIENCE = 60.0  # seconds that the end of the interpreter waits for a thread that is being stopped
_FORK_PATIENCE = 30.0  # seconds that a fork waits for native code to return

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


class _Gate:
    """Threads inside native code, whose locks a forked child could never release, and the fork that waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())  # a signal handler may compute, too
        self._inside: dict[int, int] = {}  # thread -> how often it entered
        self._ending: set[int] = set()  # threads as the system numbers them
        self._forking: int | None = None

    def enter(self, *, waits: bool) -> None:
        me = threading.get_ident()
        with self._changed:
            while waits and self._forking not in (None, me) and me not in self._inside and not self._awaited():
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1

    def leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._changed.notify_all()

    def close(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self._forking is not None:
                self._changed.wait()
            self._forking = me
            end = time.monotonic() + _FORK_PATIENCE
            while not self._inside.keys() <= {me} or self._some_end():
                if time.monotonic() > end:
                    logger.warning("A fork waited %.0f s for a computation: the child may hang.", _FORK_PATIENCE)
                    break
                self._changed.wait(0.001)  # nobody tells when the system has ended a thread

    def end(self) -> None:
        with self._changed:
            self._ending.add(threading.get_native_id())

    def _awaited(self) -> bool:
        return threading.get_native_id() in self._ending

    def _some_end(self) -> bool:
        own = threading.get_native_id()
        self._ending = {thread for thread in self._ending if os.path.exists(f"/proc/self/task/{thread}")}
        return not self._ending <= {own}

    def open(self) -> None:
        with self._changed:
            self._forking = None
            self._changed.notify_all()

    def renew(self) -> None:
        me = threading.get_ident()
        self._changed = threading.Condition(threading.RLock())
        self._inside = {me: self._inside[me]} if me in self._inside else {}
        self._ending = set()
        self._forking = None


_GATE = _Gate()


@contextmanager
def forks_wait(*, finalizer: bool = False) -> Iterator[None]:
    """Let every fork wait for the end of this block: for calls into native code, which has locks of its own.

    MKL, oneDNN and the tokenizers lock what their threads share. A child that was forked while another thread held such
    a lock waits for ever at its first product. The block must not wait for another thread of Python. A `finalizer`
    does not wait for a fork that has begun: its thread may hold a lock that the fork waits for.
    """
    _GATE.enter(waits=not finalizer)
    try:
        yield
    finally:
        _GATE.leave()


def forks_wait_for_end() -> None:
    """Let every fork from now on wait until the calling thread is gone.

    What MKL keeps for a thread it frees, under its lock, after the thread's last line of Python. The thread must not
    wait for another thread of Python any more.
    """
    _GATE.end()


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
    _GATE.close()
    for lock in _LOCKS:
        lock.acquire()


def _release() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


def _after_in_parent() -> None:
    _release()
    _GATE.open()


def _after_in_child() -> None:
    _release()
    _GATE.renew()
    for reset in _CHILD:
        reset()


at_exit(_stop)
in_child(_STOPPED.clear)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
