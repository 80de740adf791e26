"""flex_attention is used where it helps and given up where it fails; the numbers stay those of the other paths."""

import logging

import pytest
import torch

from zh_retrieval.layers.alibi import Flex, alibi_attention, slope_tensor, slopes
from zh_retrieval.layers.packing import Layout, pack
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
LENGTHS = (100, 60, 7)


class Compilers(Flex):
    """Suits every layout; its function fails from call number `works` on."""

    def __init__(self, error, works=0):
        super().__init__(lambda: self.compute)
        self.error, self.works, self.calls = error, works, 0

    def suits(self, packed, device):
        return True

    def compute(self, q, k, v, *, score_mod, block_mask):
        self.calls += 1
        if self.calls > self.works:
            raise self.error
        return v  # wrong on purpose: to be seen in the result


@pytest.fixture
def operands():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(sum(LENGTHS), 4, 16, generator=generator) for _ in range(3)]


def layout():
    return pack([Tokens([1] * length) for length in LENGTHS], CPU).layout


class OutOfResourcesError(Exception):
    """As Triton's, which is no RuntimeError."""


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to find C compiler."), OutOfResourcesError("out of resource: shared memory")],
    ids=str,
)
def test_a_shape_that_cannot_be_compiled_gets_the_right_result(error, operands, caplog):
    expected = alibi_attention(*operands, layout())
    flex = Compilers(error)
    for _ in range(3):
        torch.testing.assert_close(alibi_attention(*operands, layout(), flex), expected)
    assert flex.calls == 1  # for good
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(error) in record.getMessage()


def test_it_may_fail_after_it_worked(operands):
    flex = Compilers(RuntimeError("no kernel for these strides"), works=2)
    found = [alibi_attention(*operands, layout(), flex) for _ in range(4)]
    assert torch.equal(found[1], operands[2])
    torch.testing.assert_close(found[2], alibi_attention(*operands, layout()))
    assert flex.calls == 3


def test_memory_that_runs_out_is_no_reason_to_give_it_up(operands):
    flex = Compilers(torch.OutOfMemoryError("CUDA out of memory."))
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            alibi_attention(*operands, layout(), flex)
    assert flex.calls == 2


def test_the_blocks_of_a_layout_are_made_once_for_all_layers(operands):
    flex, packed = Compilers(None, works=9), layout()
    alibi_attention(*operands, packed, flex)
    made = dict(packed.cache)
    alibi_attention(*operands, packed, flex)
    assert list(made) == [("blocks", CPU)]
    assert packed.cache[("blocks", CPU)] is made[("blocks", CPU)]


def test_long_and_mixed_texts_on_cuda_alone_suit_it():
    def found(lengths, device):
        packed = Layout(
            lengths, (), pack([Tokens([1] * n) for n in lengths], CPU).layout.runs, torch.tensor(0), max(lengths)
        )
        return Flex().suits(packed, torch.device(device))

    assert [found(lengths, "cuda:1") for lengths in ((9, 8), (1024,), (9, 8, 7, 6))] == [False, True, True]
    assert not found((2048, 9), "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_slopes_do_not_take_the_applications_default_dtype(dtype, operands):
    slope_tensor.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        found = alibi_attention(*operands, layout())
    finally:
        torch.set_default_dtype(torch.float32)
    assert slope_tensor(4, CPU).dtype == torch.float32  # kept for the life of the process
    assert slope_tensor(12, CPU).tolist() == torch.tensor(slopes(12), dtype=torch.float32).tolist()
    assert torch.equal(found, alibi_attention(*operands, layout()))
