"""What an engine asks of its device beside arithmetic: streams, events, pinned copies, graphs, free memory.

CUDA's current device belongs to a thread and is number 0 in a new one, so every call here says which device it means.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from zh_retrieval.layers.memory import is_out_of_memory

Run = Callable[[], torch.Tensor]

_WARMUPS = 3  # runs before a recording, in which libraries choose and load their kernels
_LOST = (  # CUDA's errors that stay for the life of the process, in its own words
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "invalid program counter",
    "hardware stack error",
    "misaligned address",
    "unspecified launch failure",
    "the launch timed out",
    "uncorrectable ecc error",
)


class Event(Protocol):
    """A mark in a device's work: whether it is reached, and waiting for it."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


class Device(Protocol):
    """The seam between an engine and its device; `TorchDevice`, or a fake that writes down what it was asked."""

    def activate(self) -> AbstractContextManager[object]: ...

    def to_host(self, rows: torch.Tensor) -> tuple[torch.Tensor, Event | None]: ...

    def empty_cache(self) -> None: ...


def is_lost(error: BaseException) -> bool:
    """Return True if an error says that a GPU computes nothing more for this process: every later call fails, too."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _LOST)


def _pinned(rows: torch.Tensor) -> torch.Tensor:
    return torch.empty(rows.shape, dtype=rows.dtype, device="cpu", pin_memory=True)


class TorchDevice:
    """A device as torch runs it.

    Args:
        device: Which; CUDA with its index.
        cuda: torch.cuda, or what stands for it in a test.
        pinned: Makes the page-locked tensor on the host that rows are copied to.
    """

    def __init__(
        self, device: torch.device, cuda: Any = torch.cuda, pinned: Callable[[torch.Tensor], torch.Tensor] = _pinned
    ) -> None:
        self.device = device
        self._cuda = cuda
        self._pinned = pinned

    def activate(self) -> AbstractContextManager[object]:
        """Return a context in which this is the thread's current CUDA device; nothing changes elsewhere."""
        if self.device.type != "cuda":
            return nullcontext()
        context: AbstractContextManager[object] = self._cuda.device(self.device)
        return context

    def to_host(self, rows: torch.Tensor) -> tuple[torch.Tensor, Event | None]:
        """Return the rows on the host, and the event after which they are there; None if they are there now.

        The rows of a model on several devices may lie on another than `device`: its stream copies, so it is asked.
        """
        if rows.device.type != "cuda":
            return rows.cpu(), None
        host = self._pinned(rows)
        host.copy_(rows, non_blocking=True)
        event: Event = self._cuda.current_stream(rows.device).record_event(self._cuda.Event())
        return host, event

    def free_memory(self) -> int | None:
        """Return the free bytes of a CUDA device, None for others."""
        if self.device.type != "cuda":
            return None
        free: int = self._cuda.mem_get_info(self.device)[0]
        return free

    def empty_cache(self) -> None:
        """Give memory that torch keeps for later back to the device."""
        if self.device.type == "cuda":
            with self.activate():
                self._cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def record(self, run: Run) -> tuple[torch.Tensor, Callable[[], object]]:
        """Return the tensor that `run` leaves its result in, and what computes it again from the same inputs' memory.

        A CUDA graph is recorded, on a stream of its own. The thread's stream is the same afterwards, also after a
        failure: torch leaves the recording's stream current if it cannot end the recording.

        Raises:
            RuntimeError: An operator cannot be recorded, or memory ran out (`is_out_of_memory` tells).
        """
        with self.activate():
            before, side = self._cuda.current_stream(self.device), self._cuda.Stream(device=self.device)
            try:
                side.wait_stream(before)
                with self._cuda.stream(side):
                    for _ in range(_WARMUPS):
                        run()
                before.wait_stream(side)
                graph = self._cuda.CUDAGraph()
                with self._cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    result = run()
            except RuntimeError as error:  # ending a recording that failed raises an error about the ending
                reason = error.__context__
                if reason is not None and is_out_of_memory(reason):
                    raise reason from None
                raise
            finally:
                self._cuda.set_stream(before)
            return result, graph.replay
