"""What an engine does when its device runs out of memory, at once or while it computes, and what it leaves behind."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import zh_retrieval as zr
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.torch_engine import TorchEngine
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
REFUSED = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ...")


class Body(nn.Module):
    """Gives each token's id as its hidden state; `limit` tokens fit, and the next `passing` calls fail anyhow."""

    def __init__(self, limit=10**9, error=OUT, passing=0):
        super().__init__()
        self.limit, self.error, self.passing = limit, error, passing
        self.sizes = []
        self.seen = []

    def forward(self, input_ids, position_ids, packed):
        kept = torch.ones(1000)  # what a layer would hold
        self.seen.append(weakref.ref(kept))
        self.sizes.append(input_ids.shape[1])
        self.passing -= 1
        if self.passing >= 0 or input_ids.shape[1] > self.limit:
            raise type(self.error)(*self.error.args)
        return (input_ids.float().unsqueeze(-1),)


def first(hidden, batch):
    return hidden[list(batch.layout.starts)]


def engine(body, budget=32_768, **more):
    return TorchEngine(body, first, device=CPU, dtype=torch.float32, width=1, max_batch_tokens=budget, **more)


def texts(*lengths):
    return [Tokens([number] * length) for number, length in enumerate(lengths, 1)]


@pytest.mark.parametrize("error", [OUT, REFUSED, MemoryError(), RuntimeError("MPS backend out of memory")], ids=repr)
def test_a_batch_that_does_not_fit_is_computed_in_parts(error):
    body = Body(limit=128, error=error)
    found = engine(body).run(texts(64, 64, 64, 64, 64))
    assert found.tolist() == [[1], [2], [3], [4], [5]]
    assert body.sizes[0] == 320


@pytest.mark.parametrize("error", [OUT, REFUSED, MemoryError()], ids=repr)
def test_one_sequence_that_does_not_fit_is_said(error):
    with pytest.raises(
        zr.errors.DeviceMemoryError, match="A sequence of 256 tokens does not fit into the memory of cpu"
    ):
        engine(Body(limit=128, error=error)).run(texts(256))


def test_other_errors_are_not_tried_again():
    body = Body(limit=1, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        engine(body).run(texts(8, 8))
    assert body.sizes == [16]


def test_the_budget_halves_from_what_it_was_and_not_from_the_batch(caplog):
    made = engine(Body(passing=1))
    made.run(texts(10, 10))
    assert made.max_batch_tokens == 16_384
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "cpu ran out of memory: token budget is now 16384"


@pytest.mark.parametrize(
    ("configured", "lengths", "least"),
    [(32_768, (8, 8), 1024), (32_768, (3072, 8), 3072), (300, (8, 8), 300), (2048, (4096, 8), 2048)],
)
def test_the_budget_has_a_floor(configured, lengths, least, caplog):
    made = engine(body := Body(), configured)
    for _ in range(12):
        body.passing = 1
        made.run(texts(*lengths))
    assert made.max_batch_tokens == least
    said = [int(record.getMessage().split()[-1]) for record in caplog.records]
    assert said == sorted(set(said), reverse=True)  # each budget once
    assert said[-1:] == ([least] if least < configured else [])


def test_the_budget_grows_back_after_good_passes(caplog):
    caplog.set_level(logging.INFO)
    made = engine(Body(passing=2), 5000)
    made.run(texts(8, 8, 8, 8))
    assert made.max_batch_tokens == 1250
    seen = []
    for _ in range(200):
        made.run(texts(8))
        seen.append(made.max_batch_tokens)
    assert sorted(set(seen)) == [1250, 2500, 5000]
    assert seen.index(2500) >= 50
    assert seen.index(5000) >= 2 * seen.index(2500)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "cpu has memory again: token budget is now 2500",
        "cpu has memory again: token budget is now 5000",
    ]


def test_trouble_in_between_starts_the_count_anew():
    made = engine(body := Body(), 4096)
    for _ in range(8):
        body.passing = 1
        made.run(texts(8, 8))
        for _ in range(40):
            made.run(texts(8))
    assert made.max_batch_tokens == 1024


@pytest.mark.parametrize("error", [OUT, REFUSED, ValueError("no")], ids=repr)
def test_an_error_keeps_no_tensors_alive(error):
    made = engine(body := Body(limit=16, error=error))
    gc.disable()
    try:
        with pytest.raises((zr.errors.DeviceMemoryError, ValueError)) as caught:
            made.run(texts(64, 64))
        assert [seen() for seen in body.seen] == [None] * len(body.seen)
    finally:
        gc.enable()
    assert caught.value.__traceback__ is not None  # where it happened is still told


class LateEvent:
    """The first `failing` marks of an engine end in an error, as work that fails on the device does."""

    def __init__(self, late):
        self.late = late

    def query(self):
        return self._check()

    def synchronize(self):
        self._check()

    def _check(self):
        if self.late.limit < self.late.size:
            raise self.late.error
        return True


class Late:
    """A device that says only at the end of a copy that more than `limit` rows did not fit."""

    def __init__(self, limit, error=OUT):
        self.limit, self.error, self.size = limit, error, 0
        self.inside, self.emptied, self.recovers = [], 0, False

    def activate(self):
        late = self

        class Inside:
            def __enter__(self):
                late.inside.append(True)

            def __exit__(self, *_):
                late.inside.pop()

        return Inside()

    def to_host(self, rows):
        assert self.inside
        self.size = len(rows)
        return rows, LateEvent(self)

    def empty_cache(self):
        self.emptied += 1
        if self.recovers:
            self.limit = 10**9


def test_memory_that_runs_out_on_the_device_is_met_at_the_result():
    late = Late(2)
    made = engine(Body(), runtime=late)
    pending = made.launch(texts(8, 8, 8, 8))
    assert pending.ready  # nothing to wait for: the result says what happened
    np.testing.assert_array_equal(pending.result(), [[1], [2], [3], [4]])
    assert (made.max_batch_tokens, late.emptied) == (16_384, 1)


def test_one_sequence_too_long_for_the_device_is_said_at_the_result():
    with pytest.raises(zr.errors.DeviceMemoryError, match="A sequence of 8 tokens"):
        engine(Body(), runtime=Late(0)).launch(texts(8)).result()


def test_other_errors_of_the_device_come_out_as_they_are():
    made = engine(Body(), runtime=Late(0, RuntimeError("CUDA error: device-side assert triggered")))
    with pytest.raises(RuntimeError, match="device-side assert"):
        made.launch(texts(8, 8)).result()
    assert made.max_batch_tokens == 32_768


def test_a_worker_can_enter_the_engines_device_for_good():
    late = Late(9)
    with engine(Body(), runtime=late).activate():
        assert late.inside == [True]
    assert late.inside == []


@pytest.mark.parametrize(
    ("words", "fatal"),
    [
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
        ("shape '[2, 3]' is invalid for input of size 5", False),
    ],
)
def test_an_error_that_ends_the_device_is_known(words, fatal):
    assert engine(Body()).is_fatal(RuntimeError(words)) == fatal
    assert not engine(Body()).is_fatal(ValueError(words))


def test_what_is_tried_again_at_the_result_is_tried_on_the_engines_device():
    late = Late(0)
    no_buckets = QueryGraphs(Body(), CPU, 4, 0)  # nothing is recorded; the engine tries again without all the same
    pending = engine(Body(), runtime=late, graphs=no_buckets).launch(texts(8))
    late.recovers = True
    assert pending.result().tolist() == [[1]]  # `Late` refuses a copy outside its device
