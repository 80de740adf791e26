"""The ways to compute attention agree."""

import pytest
import torch

from zh_retrieval.layers.alibi import alibi_attention
from zh_retrieval.layers.attention import _has_flash, _varlen_fits, attend_products, by_products, packed_attention
from zh_retrieval.layers.packing import Layout, pack
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
LENGTHS = (100, 100, 60, 7)


class Layer(torch.nn.Module):
    is_causal = False


def operands(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(sum(LENGTHS), 4, 16, generator=generator).to(dtype) for _ in range(3)]


def layout():
    return pack([Tokens([1] * length) for length in LENGTHS], CPU).layout


@pytest.mark.parametrize("scaling", [None, 0.5])
def test_two_products_are_attention(scaling):
    q, k, v = operands()
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(0, 1) for tensor in (q, k, v)), scale=scaling
    )
    torch.testing.assert_close(attend_products(q, k, v, scaling), expected.transpose(0, 1), atol=1e-6, rtol=0)


def test_bfloat16_on_the_cpu_takes_them_and_stays_close():
    narrow = operands(torch.bfloat16)
    assert [by_products(narrow[0], length) for length in (10, 60, 512, 2048)] == [False, True, True, False]
    assert not by_products(operands()[0], 512)
    rows = [tensor.transpose(0, 1).unsqueeze(0) for tensor in narrow]  # (1, N, T, D)
    found, _ = packed_attention(Layer(), *rows, None, packed=layout())
    expected, _ = packed_attention(Layer(), *(tensor.float() for tensor in rows), None, packed=layout())
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=0)


def test_alibi_in_bfloat16_stays_close():
    found = alibi_attention(*operands(torch.bfloat16), layout())
    expected = alibi_attention(*(tensor.float() for tensor in operands(torch.bfloat16)), layout())
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=0)


class OnCuda:
    """What is asked of a query that lies on a GPU."""

    is_cuda, device, shape = True, torch.device("cuda:1"), (9, 4, 64)

    def __init__(self, dtype):
        self.dtype = dtype


@pytest.mark.parametrize(("capability", "runs"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_flash_attention_is_for_ampere_and_later(capability, runs, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert [_varlen_fits(OnCuda(dtype), None) for dtype in (torch.float16, torch.bfloat16)] == [runs, runs]
    assert asked == [torch.device("cuda:1")] * 2
    assert not _varlen_fits(OnCuda(torch.float32), None)


def test_flash_attention_is_not_for_rocm(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not _varlen_fits(OnCuda(torch.float16), None)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_the_capability_is_a_constant_for_the_compiler(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def chosen(rows):
        return rows + 1 if _has_flash(torch.device("cuda:1")) else rows

    assert chosen(torch.zeros(1)) == (capability >= (8, 0))


META = torch.device("meta")  # stands for a second GPU: a layout on another device than its layer is refused there too


def known_to_the_device():
    packed = layout()
    return Layout((), (), (), packed.cu_seqlens, sum(LENGTHS))


def test_a_layer_on_another_device_gets_the_bounds_there():
    away = [tensor.to(META) for tensor in operands()]
    rows = [tensor.transpose(0, 1).unsqueeze(0) for tensor in away]
    attended, _ = packed_attention(Layer(), *rows, None, packed=known_to_the_device())
    assert attended.device == META
    assert alibi_attention(*away, known_to_the_device()).device == META


def test_bounds_are_copied_once_to_each_device():
    packed = layout()
    assert packed.bounds(CPU) is packed.cu_seqlens
    copied = packed.bounds(META)
    assert (copied.device, copied.dtype, copied.shape) == (META, torch.int32, packed.cu_seqlens.shape)
    assert packed.bounds(META) is copied
