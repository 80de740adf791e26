"""The ways to compute attention agree."""

import pytest
import torch

from zh_retrieval.layers.alibi import alibi_attention
from zh_retrieval.layers.attention import attend_products, by_products, packed_attention
from zh_retrieval.layers.packing import pack
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
