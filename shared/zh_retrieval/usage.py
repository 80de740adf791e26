"""What the calls of a task used: for servers, which say and count it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """Sums over calls.

    Attributes:
        tokens: Tokens that the model read, special tokens included; equal inputs count each.
        cut: Inputs that were cut.
        lost: Tokens that they lost; at least so many, where a long text was not read to its end.
        queued: Seconds that the slowest call waited for its first batch; not a sum.
    """

    tokens: int = 0
    cut: int = 0
    lost: int = 0
    queued: float = 0.0


_COUNTING: ContextVar[Usage | None] = ContextVar("zh_retrieval_usage", default=None)


@contextmanager
def counted() -> Iterator[Usage]:
    """Yield what is used by calls that this task or thread makes in the block."""
    usage = Usage()
    token = _COUNTING.set(usage)
    try:
        yield usage
    finally:
        _COUNTING.reset(token)


def note(used: Usage) -> None:
    """Add what a call used to what its task counts, if it counts."""
    usage = _COUNTING.get()
    if usage is not None:
        usage.tokens += used.tokens
        usage.cut += used.cut
        usage.lost += used.lost
        usage.queued = max(usage.queued, used.queued)


def counting() -> bool:
    """Return True if this task or thread counts what its calls use, and so says itself what was cut."""
    return _COUNTING.get() is not None
