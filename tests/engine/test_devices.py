"""Every call to a GPU names its device, whichever one the thread has as its current one."""

from types import SimpleNamespace

import pytest
import torch

from tests.engine.fake_cuda import FakeCuda
from zh_retrieval.engine.devices import TorchDevice
from zh_retrieval.layers.memory import is_out_of_memory

ONE = torch.device("cuda:1")


class Host:
    def __init__(self, rows):
        self.shape = rows.shape

    def copy_(self, rows, *, non_blocking):
        self.copied, self.non_blocking = rows, non_blocking


def rows(device):
    return SimpleNamespace(device=torch.device(device), shape=(2, 3), dtype=torch.float32)


def test_the_worker_enters_the_models_device():
    cuda = FakeCuda()
    with TorchDevice(ONE, cuda).activate():
        assert cuda.current == 1
    assert cuda.current == 0


def test_nothing_is_entered_on_the_cpu():
    cuda = FakeCuda()
    with TorchDevice(torch.device("cpu"), cuda).activate():
        assert cuda.current == 0
    assert TorchDevice(torch.device("cpu"), cuda).free_memory() is None
    TorchDevice(torch.device("cpu"), cuda).empty_cache()
    assert cuda.asked == []


@pytest.mark.parametrize("where", ["cuda:0", "cuda:1", "cuda:3"])  # the last: a model on several devices
def test_the_end_of_a_copy_is_marked_on_the_stream_that_copies(where):
    cuda = FakeCuda()
    given = rows(where)
    host, event = TorchDevice(ONE, cuda, Host).to_host(given)
    assert event.stream is cuda.current_stream(where)
    assert host.copied is given
    assert host.non_blocking


def test_rows_on_the_cpu_are_there_at_once():
    given = torch.ones(2, 3)
    host, event = TorchDevice(ONE, FakeCuda()).to_host(given)
    assert torch.equal(host, given)
    assert event is None


def test_memory_is_asked_of_and_freed_on_the_models_device():
    cuda = FakeCuda()
    assert TorchDevice(ONE, cuda).free_memory() == 7
    TorchDevice(ONE, cuda).empty_cache()
    assert cuda.asked == [("free memory", 1), ("empty cache", 1)]


def test_a_graph_is_recorded_on_a_stream_of_the_models_device():
    cuda, used = FakeCuda(), []

    def run():
        used.append(cuda.current_stream(ONE))
        return torch.ones(1)

    before = cuda.current_stream(ONE)
    result, replay = TorchDevice(ONE, cuda).record(run)
    [(side, mode)] = cuda.captures
    assert (side.device, mode) == (1, "thread_local")
    assert side is not before
    assert used == [side] * 4  # the runs before it, too
    assert side.waited_for == [before]
    assert before.waited_for == [side]
    assert cuda.current_stream(ONE) is before
    assert torch.equal(result, torch.ones(1))
    replay()
    assert replay.__self__.replays == 1


def test_a_recording_that_fails_gives_the_stream_back():
    cuda = FakeCuda(ending_fails=True)
    before = cuda.current_stream(ONE)
    with pytest.raises(RuntimeError, match="previous error during capture"):
        TorchDevice(ONE, cuda).record(lambda: torch.ones(1))
    assert cuda.current_stream(ONE) is before
    assert cuda.current == 0


@pytest.mark.parametrize("fails_at", [1, 4])  # in the first run before the recording, and in the recording
def test_memory_that_runs_out_while_recording_is_told_as_such(fails_at):
    cuda, runs = FakeCuda(), []

    def run():
        runs.append(1)
        if len(runs) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return torch.ones(1)

    before = cuda.current_stream(ONE)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        TorchDevice(ONE, cuda).record(run)
    assert cuda.current_stream(ONE) is before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, other allocations: 1.00 MB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[CPU] FullyConnected node with name 'Add_80' can't alloc"),  # OpenVINO under ulimit -v, as below
        RuntimeError("Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257: Failed to allocate 5 bytes"),
        RuntimeError("[CPU] FullyConnected node with name 'Add_80' std::future_error: Broken promise"),
        RuntimeError("hipErrorOutOfMemory"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("cudaErrorMemoryAllocation"),
        RuntimeError("UR backend failed. UR error: 40 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        RuntimeError("DefaultCPUAllocator: cannot allocate memory"),
        RuntimeError("could not create a primitive"),  # oneDNN, seen with a limit on the address space
    ],
    ids=str,
)
def test_memory_that_ran_out_is_known_in_every_wording(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("out of resource: shared memory, Required: 180224, Hardware limit: 101376."),
        RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_what_torch_really_says_on_the_cpu_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8, device="cpu")
    assert is_out_of_memory(caught.value)
