"""Prepacked and int8 linear layers against torch's own."""

import re
import threading

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

import zh_retrieval as zr
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.layers.bert_cpu import JoinedSelfAttention, fuse_gelu
from zh_retrieval.layers.onednn import Int8Linear, PrepackedLinear, join, prepack, quantize_int8, round_rows


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


def test_int8_layers_pass_on_what_is_not_finite():
    layer = Int8Linear(nn.Linear(8, 4))
    for bad in (float("nan"), float("inf"), -float("inf")):
        found = layer(torch.tensor([[1.0] * 7 + [bad], [1.0] * 8]))
        assert found[0].isnan().all()
        assert found[1].isfinite().all()  # another caller's text


def test_int8_rounds_to_the_nearest_step():
    layer = Int8Linear(nn.Linear(2, 1))
    rows = torch.tensor([[-1.0, 1.0], [0.0, 0.5], [-300.0, -1.0], [0.0, 0.0]])
    codes, step, low = round_rows(rows)
    assert codes.dtype == torch.uint8
    assert ((codes * step + low - rows).abs() <= step / 2 + 1e-6).all()
    assert layer(torch.zeros(1, 2)) == pytest.approx(layer.bias.item())


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 9, 255, 256, 257, 600])
def test_int8_rows_do_not_depend_on_their_neighbours(count, narrow):
    torch.manual_seed(0)
    plain = nn.Sequential(FeedForward().requires_grad_(False))
    assert quantize_int8(plain) == 1
    assert fuse_gelu(plain) == 1
    plain[0].dense.answers = narrow
    rows = torch.randn(1, count, 64)
    alone = torch.cat([plain(rows[:, row : row + 1]) for row in range(count)], dim=1)
    outliers = torch.full((1, 3, 64), 1000.0)
    assert torch.equal(plain(torch.cat([outliers, rows, -outliers], dim=1))[:, 3:-3], alone)


def test_int8_with_the_gelu_inside_stays_close():
    torch.manual_seed(0)
    plain, rows = nn.Sequential(FeedForward().requires_grad_(False)), torch.randn(1, 300, 64)
    expected = plain(rows)
    quantize_int8(plain)
    fuse_gelu(plain)
    assert isinstance(plain[0].intermediate_act_fn, nn.Identity)
    assert torch.nn.functional.cosine_similarity(plain(rows), expected, dim=-1).min() > 0.9995


def test_an_int8_vector_does_not_depend_on_other_texts():
    texts = [
        "绿茶用八十度的水冲泡。",
        "猫喜欢睡觉",
        "Python asyncio 的事件循环",
        "🍵" * 200,
        "a" * 300,
        "如何退火车票？" * 30,
    ]
    with zr.load_encoder("e5-small-zh", device="cpu", quantization="int8", private=True) as narrow:
        alone = np.concatenate([narrow.encode_documents([text]) for text in texts])
        np.testing.assert_allclose(narrow.encode_documents(texts), alone, atol=1e-6)


def test_a_processor_that_multiplies_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(Int8Linear, "forward", lambda self, rows: torch.zeros(*rows.shape[:-1], len(self.scales)))
    with pytest.raises(zr.ConfigError, match="multiplies int8 wrongly"):
        quantize_int8(model())


def test_the_engine_uses_prepacked_layers_on_the_cpu(encoder):
    kinds = {type(module) for module in encoder._model.engine._body.modules()}
    assert (PrepackedLinear in kinds) != (nn.Linear in kinds)


def test_joined_layers_give_the_outputs_of_each_one_after_the_other():
    torch.manual_seed(0)
    parts = [nn.Linear(16, width).requires_grad_(False) for width in (8, 24, 4)]
    rows = torch.randn(5, 16)
    torch.testing.assert_close(join(*parts)(rows), torch.cat([part(rows) for part in parts], dim=-1))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(64, 96)
        self.intermediate_act_fn = ACT2FN["gelu"]

    def forward(self, rows):
        return self.intermediate_act_fn(self.dense(rows))


def test_the_gelu_moves_into_its_product():
    torch.manual_seed(0)
    plain, rows = nn.Sequential(FeedForward().requires_grad_(False)), torch.randn(7, 64)
    expected = plain(rows)
    if prepack(plain):
        assert fuse_gelu(plain) == 1
        assert isinstance(plain[0].intermediate_act_fn, nn.Identity)
    torch.testing.assert_close(plain(rows), expected, atol=1e-5, rtol=1e-5)


def test_the_engine_joins_the_projections(encoder):
    modules = list(encoder._model.engine._body.modules())
    assert sum(isinstance(module, JoinedSelfAttention) for module in modules) == 12
    assert not any(hasattr(module, "query") for module in modules)


def test_a_cross_encoder_in_bfloat16_keeps_its_residuals_in_float32(tmp_path):
    folder, pairs = tiny_xlmr_reranker(tmp_path), [("怎么泡茶", text) for text in ("绿茶用八十度的水", "猫喜欢睡觉")]
    with zr.load_reranker("bge-reranker-large", path=folder, device="cpu", dtype="float32") as exact:
        expected = exact.score(pairs)
    with zr.load_reranker("bge-reranker-large", path=folder, device="cpu", dtype="bfloat16") as narrow:
        body = narrow._model.engine._body
        if not any(type(module) is nn.Linear for module in body.modules()):
            assert not any(type(module) is nn.LayerNorm for module in body.modules())
        np.testing.assert_allclose(narrow.score(pairs), expected, atol=0.15)


def test_loading_leaves_no_thread_behind():
    before = {thread.ident for thread in threading.enumerate()}
    with zr.load_encoder("e5-small-zh", device="cpu", private=True):
        assert {thread.ident for thread in threading.enumerate()} == before


def test_int8_vectors_stay_close_to_float32(encoder):
    texts = ["绿茶用八十度的水冲泡。", "猫喜欢睡觉", "Python asyncio 的事件循环", "如何退火车票？"]
    with zr.load_encoder("e5-small-zh", device="cpu", quantization="int8") as narrow:
        found = narrow.encode_documents(texts)
    assert ((found * encoder.encode_documents(texts)).sum(-1) >= 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_int8_is_refused_off_the_cpu():
    with pytest.raises(zr.ConfigError, match=r"runs on the CPU|not present"):
        zr.load_encoder(
            "e5-small-zh", device="mps" if torch.backends.mps.is_available() else "cuda", quantization="int8"
        )


@pytest.mark.parametrize("name", ["_reorder_linear_weight", "_linear_pointwise"])
def test_a_torch_without_the_private_operators_keeps_its_own_linear(monkeypatch, name):
    """What breaks when torch renames them: speed alone."""
    linear = nn.Linear(8, 4).requires_grad_(False)
    body, rows = nn.Sequential(linear), torch.randn(3, 8)
    expected = body(rows)

    def renamed(*_):
        raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute {name!r}")

    monkeypatch.setattr(torch.ops.mkldnn, name, renamed)
    assert prepack(body) == 0
    torch.testing.assert_close(body(rows), expected)


@pytest.mark.parametrize("name", ["qlinear_prepack", "qlinear_pointwise"])
def test_a_torch_without_the_int8_operators_refuses_int8_by_name(monkeypatch, name):
    """What breaks when torch renames them: int8, with an error that names torch's version."""

    def renamed(*_):
        raise AttributeError(f"'_OpNamespace' 'onednn' object has no attribute {name!r}")

    monkeypatch.setattr(torch.ops.onednn, name, renamed)
    with pytest.raises(zr.ConfigError, match=f"torch {re.escape(torch.__version__)}.*{name}"):
        quantize_int8(nn.Sequential(nn.Linear(8, 4)))
