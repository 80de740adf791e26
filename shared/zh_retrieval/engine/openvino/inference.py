"""Inference requests of OpenVINO's: how a graph is compiled, run, and left behind by a fork."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

_KERNELS = 500  # that OpenVINO keeps of the shapes that it met; its 5000 are more than a gigabyte
_MARK = np.float32(-2.3456789e38)


def capabilities() -> list[str]:
    """Return what OpenVINO's CPU plugin says that this CPU computes in: "FP32", "BF16", "INT8", ..."""
    found: list[str] = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """How OpenVINO computes.

    Attributes:
        bfloat16: Multiply in bfloat16; sums, norms and what goes on between layers stay float32.
        threads: How many threads compute, the worker's own included.
        group: Activations are rounded to int8, so many numbers together; 0: they are not.
    """

    bfloat16: bool
    threads: int
    group: int = 0

    def properties(self) -> dict[str, Any]:
        """Return the properties that OpenVINO's CPU plugin takes."""
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "ENABLE_CPU_PINNING": False,  # cores belong to the whole process
            "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.group,
        }


def compiled(model: ov.Model, settings: Settings) -> Any:
    """Return what a graph is computed by: an inference request of OpenVINO's, of one thread at a time."""
    return ov.Core().compile_model(model, "CPU", settings.properties()).create_infer_request()


def infer(request: Any, inputs: Sequence[np.ndarray], rows: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the outputs, in memory that the next run writes over.

    Where memory runs out and one thread computes, OpenVINO's own `infer` returns as if nothing had happened: the
    outputs are those of the run before, sizes and numbers, and to free the request ends the process. `start_async` and
    `wait` say what happened. Nobody promises that either, so the outputs are marked first, and looked at afterwards.

    Args:
        request: OpenVINO's inference request.
        inputs: Contiguous arrays, in the order of the graph's inputs.
        rows: An axis of each output, and how long it has to be.

    Raises:
        MemoryError: Nothing was computed.
    """
    for number in range(len(rows)):
        stale = request.get_output_tensor(number).data
        if stale.size:
            stale.flat[0] = _MARK
    for number, values in enumerate(inputs):  # which are held until `wait` returns: it owns no memory
        request.set_input_tensor(number, ov.Tensor(values, shared_memory=True))
    request.start_async()
    request.wait()
    outputs = [request.get_output_tensor(number).data for number in range(len(rows))]
    for output, (axis, size) in zip(outputs, rows, strict=True):
        if output.shape[axis] != size or output.flat[0] == _MARK:
            raise MemoryError("OpenVINO computed nothing and said nothing: memory ran out.")
    return outputs


def abandon(request: object) -> None:
    """Keep an object of OpenVINO's for ever: to free what a fork copied would be to wait for threads that are gone."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(request))
