"""The fakes that users get behave as the real models do, as far as callers can tell without weights."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.reranker import LocalReranker
from zh_retrieval.testing import FakeEncoder, FakeReranker


@pytest.mark.parametrize(("fake", "base"), [(FakeEncoder, Encoder), (FakeReranker, Reranker)])
def test_signatures_are_those_of_the_seam(fake, base):
    for name in base.__abstractmethods__:
        if callable(getattr(base, name)):
            assert inspect.signature(getattr(fake, name)) == inspect.signature(getattr(base, name)), name


def test_texts_that_share_characters_are_alike_and_vectors_have_length_1():
    encoder = FakeEncoder(32)
    vectors = encoder.encode_documents(["绿茶用八十度的水冲泡。", "猫一天睡十几个小时。", ""])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.dimension) == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (encoder.encode_queries(["泡绿茶水温多少？"]) @ vectors.T).argmax() == 0
    assert encoder.calls[1] == ("泡绿茶水温多少？",)
    assert encoder.encode_documents([]).shape == (0, 32)


async def test_async_twins_give_the_same():
    encoder, reranker = FakeEncoder(), FakeReranker()
    np.testing.assert_array_equal(await encoder.aencode_documents(["茶"]), encoder.encode_documents(["茶"]))
    np.testing.assert_array_equal(await encoder.aencode_queries(["茶"]), encoder.encode_queries(["茶"]))
    np.testing.assert_array_equal(
        await encoder.aencode_chunks("茶水", [(0, 1)]), encoder.encode_chunks("茶水", [(0, 1)])
    )
    np.testing.assert_array_equal(await reranker.ascore([("茶", "水")]), reranker.score([("茶", "水")]))


def test_a_reranker_ranks_by_shared_characters():
    assert FakeReranker().rank("绿茶", ["猫", "红茶", "绿茶"], top_n=2) == [zr.Ranked(2, 1.0), zr.Ranked(1, 0.5)]


@pytest.mark.parametrize("bad", [[None], "text", ["\ud800"]])
def test_inputs_are_checked_as_by_a_real_one(bad):
    with pytest.raises(zr.InputError):
        FakeEncoder().encode_documents(bad)
    with pytest.raises(zr.ConfigError):
        FakeEncoder().encode_queries(["茶"], instruction="x")
    with pytest.raises(zr.InputError):
        FakeEncoder().encode_chunks("茶", [(0, 2)])


def test_a_closed_one_takes_no_calls():
    with FakeEncoder() as encoder:
        pass
    assert encoder.closed
    with pytest.raises(zr.ClosedError):
        encoder.encode_documents(["茶"])


def test_the_real_ones_stand_on_the_same_seams():
    assert issubclass(LocalEncoder, Encoder)
    assert issubclass(LocalReranker, Reranker)


def test_they_need_no_torch():
    code = (
        "import sys, zh_retrieval.testing as t; t.FakeEncoder().encode_documents(['茶']); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
