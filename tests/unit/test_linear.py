"""Prepacked and int8 linear layers against torch's own."""

import numpy as np
import pytest
import torch
from torch import nn

import zh_retrieval as zr
from zh_retrieval.linear import Int8Linear, PrepackedLinear, prepack, quantize_int8


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.ModuleDict({"inner": nn.Linear(96, 32, bias=False)})["inner"])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 3, 17, 300])
def test_prepacked_layers_give_the_same_result(dtype, atol, rows):
    plain = model().to(dtype).requires_grad_(False)
    expected_rows = torch.randn(1, rows, 64, dtype=dtype)
    expected = plain(expected_rows)
    assert prepack(plain) in (0, 2)  # 0 where this build of torch has no oneDNN
    torch.testing.assert_close(plain(expected_rows), expected, atol=atol, rtol=atol)


def test_layers_of_other_dtypes_are_left_alone():
    half = nn.Sequential(nn.Linear(8, 8).half())
    assert prepack(half) == 0
    assert type(half[0]) is nn.Linear


def test_int8_layers_stay_close():
    plain = model().requires_grad_(False)
    rows = torch.randn(1, 50, 64)
    expected = plain(rows)
    assert quantize_int8(plain) == 2
    assert {type(layer) for layer in plain} == {Int8Linear, nn.GELU}
    cosine = torch.nn.functional.cosine_similarity(plain(rows), expected, dim=-1)
    assert cosine.min() > 0.995


def test_the_engine_uses_prepacked_layers_on_the_cpu(encoder):
    kinds = {type(module) for module in encoder._model.engine._body.modules()}
    assert (PrepackedLinear in kinds) != (nn.Linear in kinds)


def test_int8_vectors_stay_close_to_float32(encoder):
    texts = ["绿茶用八十度的水冲泡。", "猫喜欢睡觉", "Python asyncio 的事件循环", "如何退火车票？"]
    with zr.load_encoder("e5-small-zh", device="cpu", quantization="int8") as narrow:
        found = narrow.encode_documents(texts)
    assert ((found * encoder.encode_documents(texts)).sum(-1) >= 0.98).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_int8_is_refused_off_the_cpu():
    with pytest.raises(zr.ConfigError, match=r"runs on the CPU|not present"):
        zr.load_encoder(
            "e5-small-zh", device="mps" if torch.backends.mps.is_available() else "cuda", quantization="int8"
        )
