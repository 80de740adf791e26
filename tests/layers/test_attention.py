"""The ways to compute attention agree."""

import dataclasses

import pytest
import torch

import zh_retrieval as zr
from zh_retrieval.layers.alibi import alibi_attention
from zh_retrieval.layers.attention import _has_flash, _varlen_fits, packed_attention
from zh_retrieval.layers.capped import attend_capped
from zh_retrieval.layers.masks import band
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


def test_bfloat16_stays_close():
    rows = [tensor.transpose(0, 1).unsqueeze(0) for tensor in operands(torch.bfloat16)]  # (1, N, T, D)
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


def rows(values=16):
    """Random (1, N, T, D) of four query heads and two key-value heads."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((4, 16), (2, 16), (2, values))
    return [torch.randn(1, heads, sum(LENGTHS), size, generator=generator) for heads, size in sizes]


def by_hand(q, k, v, causal, scaling=None, window=None, softcap=None, sinks=None):
    """Attention of each sequence by the formulas: (1, T, N, D)."""
    parts, start = [], 0
    for length in LENGTHS:
        sq, sk, sv = (t[0, :, start : start + length] for t in (q, k, v))
        sk, sv = sk.repeat_interleave(2, 0), sv.repeat_interleave(2, 0)
        logits = sq @ sk.transpose(1, 2) * (scaling or 16**-0.5)
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        seen = torch.ones(length, length, dtype=torch.bool)
        if causal:
            seen = seen.tril() & (seen.triu(1 - window) if window else seen)
        logits = logits.masked_fill(~seen, -torch.inf)
        weights = logits.exp()
        total = weights.sum(-1, keepdim=True) + (sinks.exp()[:, None, None] if sinks is not None else 0)
        parts.append((weights / total @ sv).transpose(0, 1))
        start += length
    return torch.cat(parts)[None]


@pytest.mark.parametrize("known", [True, False], ids=["runs", "lengths on the device"])
@pytest.mark.parametrize(
    "asked",
    [
        {"softcap": 0.5},
        {"s_aux": torch.tensor([0.3, -1.0, 2.0, 0.0])},
        {"softcap": 0.5, "s_aux": torch.zeros(4), "sliding_window": 9, "scaling": 0.3},
    ],
    ids=["softcap", "sinks", "both in a window"],
)
@pytest.mark.parametrize("causal", [True, False])
def test_softcaps_and_sinks_are_applied(asked, causal, known):
    q, k, v = rows()
    packed = layout() if known else dataclasses.replace(layout(), runs=(), lengths=(), starts=())
    found, _ = packed_attention(Layer(), q, k, v, None, packed=packed, is_causal=causal, **asked)
    expected = by_hand(
        q, k, v, causal, asked.get("scaling"), asked.get("sliding_window"), asked.get("softcap"), asked.get("s_aux")
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_blocks_of_queries_are_one_attention():
    q, k, v = (torch.randn(1100, heads, 8) for heads in (4, 2, 2))
    found = attend_capped(q, k, v, band(1100, 1100, CPU))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (q, k, v)), is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("asked", [{}, {"softcap": 2.0}])
def test_values_may_have_a_head_size_of_their_own(asked):
    q, k, v = rows(values=6)
    found, _ = packed_attention(Layer(), q, k, v, None, packed=layout(), is_causal=True, **asked)
    torch.testing.assert_close(found, by_hand(q, k, v, True, **asked), atol=1e-5, rtol=0)


def test_a_layer_that_says_nothing_is_causal_as_in_transformers():
    q, k, v = rows()
    found, _ = packed_attention(torch.nn.Module(), q, k, v, None, packed=layout())
    torch.testing.assert_close(found, by_hand(q, k, v, True), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("position_bias", torch.zeros(1, 4, 267, 267)),
        ("indices", torch.zeros(1)),
        ("head_mask", torch.ones(4)),
        ("alibi", torch.zeros(4)),
        ("dropout", 0.1),
        ("attention_mask", torch.zeros(267, 267)),
        ("invented_later", "any"),
    ],
)
def test_what_attention_does_not_apply_is_refused_by_name(name, given):
    others = {name: given}
    mask = others.pop("attention_mask", None)
    with pytest.raises(zr.CheckpointError, match=name):
        packed_attention(Layer(), *rows(), mask, packed=layout(), **others)


def test_what_is_harmless_or_not_in_use_is_taken():
    harmless = {"position_ids": torch.arange(267), "use_cache": True, "output_attentions": True}
    unused = {"dropout": 0.0, "position_bias": None, "cu_seq_lens_q": None, "invented_later": False}
    plain, _ = packed_attention(Layer(), *rows(), None, packed=layout())
    found, _ = packed_attention(Layer(), *rows(), None, packed=layout(), **harmless, **unused)
    assert torch.equal(found, plain)
