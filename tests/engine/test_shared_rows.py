"""torch computes a shared prefix once, in the pass of those that share it, and every result is that of the whole."""

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests.engines import load_by
from tests.parity.causal_configs import build
from tests.tiny_models import tiny_mistral, tiny_qwen3
from zh_retrieval.engine import prefixes
from zh_retrieval.layers.keys import Past
from zh_retrieval.layers.packing import pack
from zh_retrieval.layers.shared import Beginning, pack_shared
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
OPTIONS = {"device": "cpu", "dtype": "float32", "private": True}
QUERIES = ["怎么泡茶", "今天天气很好，我们去公园散步吧？", "好", "茶叶用多少度的水"]
DOCUMENTS = ["绿茶要用八十度左右的水来泡，时间两三分钟就够了，不然会苦。", "公园散步"]
PAIRS = [(query, document) for document in DOCUMENTS for query in QUERIES]


@pytest.fixture
def never_shared(monkeypatch):
    """Return what lets every sequence be computed whole from now on."""
    return lambda: monkeypatch.setattr(prefixes, "_LEAST", 10**9)


def count_tokens(handle):
    """Return a list that gets how many tokens each pass computes."""
    passes = []
    body = handle._model.engine._body
    body.register_forward_pre_hook(lambda _, __, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True)
    return passes


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "qwen3_moe"])
def test_likelihoods_are_those_of_whole_sequences(family, tmp_path, never_shared):
    """gemma2 caps its logits, gpt_oss has sinks; both and mistral have windows of 8; deepseek's values are narrower."""
    with load_by("torch", zr.load_reranker, "rankinggpt", path=build(family, tmp_path), **OPTIONS) as reranker:
        passes = count_tokens(reranker)
        found = reranker.score(PAIRS)
        never_shared()
        whole = reranker.score(PAIRS)
    assert passes[0] < 0.7 * passes[1]
    assert np.ptp(whole) > 1e-3
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_answers_are_those_of_whole_sequences(tmp_path, never_shared):
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    judge = tiny_qwen3(tmp_path, head=True)
    with load_by("torch", zr.load_reranker, "qwen3-reranker-0.6b", path=judge, **OPTIONS) as reranker:
        passes = count_tokens(reranker)
        found = reranker.score(pairs)
        never_shared()
        whole = reranker.score(pairs)
    assert passes[0] < 0.7 * passes[1]
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_an_instruction_is_computed_once_for_all_calls(tmp_path, never_shared):
    with load_by("torch", zr.load_encoder, "e5-mistral", path=tiny_mistral(tmp_path), **OPTIONS) as encoder:
        passes = count_tokens(encoder)
        first = [encoder.encode_queries([query]) for query in QUERIES]
        again = encoder.encode_queries(QUERIES)
        documents = encoder.encode_documents(DOCUMENTS)
        never_shared()
        whole = encoder.encode_queries(QUERIES)
        np.testing.assert_array_equal(encoder.encode_documents(DOCUMENTS), documents)
    instruction = (passes[-2] - passes[4]) // len(QUERIES)
    assert instruction > 8
    assert passes[0] + sum(passes[1:4]) == passes[4] + instruction  # once, and each query's own tokens
    for each in (np.concatenate(first), again):
        np.testing.assert_allclose(each, whole, atol=1e-5)


def test_instructions_of_one_batch_do_not_mix(tmp_path, never_shared):
    asked = [None, "给定一个问题，找出回答它的段落", "Find similar sentences, whatever they say"]
    with load_by("torch", zr.load_encoder, "e5-mistral", path=tiny_mistral(tmp_path), **OPTIONS) as encoder:
        encoder.encode_queries(QUERIES, instruction=asked[1])  # kept
        batch = [item for each in asked for item in encoder._queries(QUERIES, each).prepare(0, len(QUERIES))]
        batch += encoder._documents(DOCUMENTS).prepare(0, len(DOCUMENTS))
        batch = [batch[index] for index in np.random.default_rng(0).permutation(len(batch))]
        engine = encoder._model.engine
        found, again = engine.launch(batch).result(), engine.launch(batch).result()
        never_shared()
        whole = engine.launch(batch).result()
    np.testing.assert_allclose(found, whole, atol=1e-5)
    np.testing.assert_allclose(again, whole, atol=1e-5)


def test_less_memory_changes_no_number(tmp_path, monkeypatch):
    with load_by("torch", zr.load_encoder, "e5-mistral", path=tiny_mistral(tmp_path), **OPTIONS) as encoder:
        whole = encoder.encode_queries(QUERIES)
    with load_by("torch", zr.load_encoder, "e5-mistral", path=tiny_mistral(tmp_path / "b"), **OPTIONS) as encoder:
        engine, forward = encoder._model.engine, encoder._model.engine._forward

        def little(body, batch):
            hidden = forward(body, batch)
            if len(batch.tokens) > 1:
                raise torch.OutOfMemoryError("full")
            return hidden

        monkeypatch.setattr(engine, "_forward", little)
        np.testing.assert_allclose(encoder.encode_queries(QUERIES), whole, atol=1e-5)


def test_the_row_has_each_prefix_once_and_says_what_each_token_sees():
    tokens = [Tokens([1, 2, 7, 8]), Tokens([5]), Tokens([3, 4, 9]), Tokens([1, 2, 6])]
    kept = Past(2)
    batch = pack_shared(tokens, [Beginning((1, 2), (0, 3)), Beginning((3, 4), (2,), kept), Beginning((), (1,))], CPU, 2)
    assert batch.input_ids.tolist() == [[7, 8, 5, 9, 6, 1, 2]]
    assert batch.position_ids.tolist() == [[4, 5, 2, 4, 4, 2, 3]]
    assert batch.layout.starts == (0, 2, 3, 4)
    assert batch.layout.lengths == (2, 1, 1, 1)
    keys = batch.layout.keys
    assert keys.pasts == (kept,)
    assert keys.cu_seqlens.tolist() == [0, 4, 5, 8, 11, 13]
    assert keys.rows.tolist() == [7, 8, 2, 3, 4, 0, 1, 5, 7, 8, 6, 7, 8]  # rows 0 and 1 are those that were kept
    assert [run[1:] for run in keys.runs] == [(1, 2, 2), (1, 1, 0), (2, 1, 2), (1, 2, 0)]


def test_a_layer_that_attends_twice_is_not_kept():
    past, layer, key = Past(1), torch.nn.Identity(), torch.zeros(1, 1, 4)
    past.add(layer, key, key)
    assert (past.usable, past.nbytes) == (True, 32)
    past.add(layer, key, key)
    past.add(torch.nn.Identity(), key, key)
    assert not past.usable


def test_what_sees_later_tokens_shares_no_prefix():
    from zh_retrieval.layers.attention import packed_attention

    batch = pack_shared([Tokens([1, 2]), Tokens([1, 3])], [Beginning((1,), (0, 1))], CPU)
    states = torch.zeros(1, 1, 3, 4)
    with pytest.raises(zr.CheckpointError, match="share a prefix"):
        packed_attention(torch.nn.Identity(), states, states, states, None, packed=batch.layout, is_causal=False)
    assert pack([Tokens([1, 2])], CPU).layout.keys is None
