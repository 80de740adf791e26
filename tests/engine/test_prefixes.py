"""Shared prefixes are computed once, and every result is that of the whole sequence."""

from dataclasses import replace

import numpy as np
import pytest

import zh_retrieval as zr
from tests.engine.test_openvino_decoders import engine_of, own_likelihoods, write_model
from tests.tiny_models import tiny_mistral, tiny_qwen3
from tests.without_torch import torch
from zh_retrieval.engine import prefixes
from zh_retrieval.engine.openvino import decoders, engine, readouts
from zh_retrieval.engine.openvino.buckets import buckets
from zh_retrieval.engine.prefixes import Prefixes
from zh_retrieval.sequence import Tokens

GENERATOR = np.random.default_rng(1)
FIRST, SECOND = (GENERATOR.integers(5, 300, 20).tolist() for _ in range(2))
LENGTHS = (3, 17, 1, 40, 9)


def items(targets=0, instructed=False):
    """Return five sequences with one prefix, two with another, one with a third, and one that shares nothing."""
    found = []
    for prefix, lengths in ((FIRST, LENGTHS), (SECOND, (4, 12)), (FIRST[:12], (5,)), ([], (8,))):
        for length in lengths:
            own = GENERATOR.integers(5, 300, length + targets).tolist()
            ids, goals = [*prefix, *own[: length + max(targets - 1, 0)]], tuple(own[length:])
            found.append(Tokens(ids, targets=goals, shared=len(prefix), instructed=instructed and bool(prefix)))
    return found


@pytest.fixture
def computed(monkeypatch):
    """Yield a list that gets how many tokens, padding left out, each pass computed."""
    passes, infer = [], engine.infer

    def watched(request, inputs, sizes):
        passes.append(int(inputs[1].sum()))
        return infer(request, inputs, sizes)

    monkeypatch.setattr(engine, "infer", watched)
    return passes


@pytest.mark.parametrize("name", ["mistral with a window", "qwen3"])
def test_vectors_are_those_of_the_whole_sequences(name, tmp_path, computed):
    model = write_model(name, tmp_path).model
    made = engine_of(tmp_path, decoders.last_token_graph, readouts.pooled("last"), 64)
    batch = items()
    with torch.no_grad():
        states = torch.stack([model(torch.tensor([item.ids])).last_hidden_state[0, -1] for item in batch])
    expected = torch.nn.functional.normalize(states, dim=-1).numpy()
    np.testing.assert_allclose(made.launch(batch).result(), expected, atol=2e-6)
    assert computed[0] == 20
    assert sum(computed) <= 20 + sum(LENGTHS) + 20 + 16 + 17 + 8 + 12  # padding rows have one token each
    whole = made.launch([replace(item, shared=0) for item in batch]).result()
    np.testing.assert_allclose(whole, expected, atol=2e-6)


def test_likelihoods_and_margins_are_those_of_the_whole_sequences(tmp_path):
    model, batch = write_model("qwen3", tmp_path), items(targets=3)
    made = engine_of(tmp_path, decoders.likelihood_graph, readouts.likelihoods, more_inputs=readouts.target_inputs)
    np.testing.assert_allclose(made.launch(batch).result(), own_likelihoods(model, batch), atol=1e-5)
    made = engine_of(tmp_path, lambda decoder: decoders.answer_graph(decoder, (7, 9)), readouts.scored)
    whole = [replace(item, shared=0) for item in batch]
    np.testing.assert_allclose(made.launch(batch).result(), made.launch(whole).result(), atol=1e-5)


def test_an_instruction_is_computed_once(tmp_path, computed):
    write_model("llama", tmp_path)
    made = engine_of(tmp_path, decoders.last_token_graph, readouts.pooled("last"), 64)
    question = items(instructed=True)[0]
    first = made.launch([question]).result()
    again = made.launch([question]).result()
    assert computed == [20, 3, 3]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(made.launch([replace(question, shared=0)]).result(), first, atol=2e-6)


def test_few_instructions_are_kept_and_no_text():
    kept = Prefixes(2048)
    for number in range(20):
        kept.keep((number,), np.zeros((2, 1, 16, 2**15), dtype=np.float32))  # 4 MB
    assert [number for number in range(20) if kept.get((number,)) is not None] == [*range(12, 20)]
    kept.keep((99,), np.zeros((2, 1, 16 * 13, 2**15), dtype=np.float32))  # 52 MB: with three others at most 64
    assert kept.get((19,)) is not None
    assert kept.get((16,)) is None
    groups = kept.groups(
        [Tokens([1] * 30, shared=20), Tokens([1] * 2100, shared=2090), Tokens([1] * 2100, shared=2090)]
    )
    assert groups == [((), [1, 2, 0])]  # one alone shares nothing, and a prefix of more than 2048 tokens is no prefix


def test_keys_and_values_of_one_prefix_take_at_most_512_mb():
    assert engine._longest_prefix(np.empty((2 * 32, 8, 0, 128), dtype=np.float32)) == 2**29 // (2 * 32 * 8 * 128 * 4)


def test_where_there_is_no_memory_for_a_prefix_sequences_are_computed_whole(tmp_path, monkeypatch):
    write_model("llama", tmp_path)
    made = engine_of(tmp_path, decoders.last_token_graph, readouts.pooled("last"), 64)
    batch = items(instructed=True)
    expected = made.launch([replace(item, shared=0) for item in batch]).result()
    infer = engine.infer

    def full(request, inputs, sizes):
        if len(sizes) == 2:
            raise MemoryError
        return infer(request, inputs, sizes)

    monkeypatch.setattr(engine, "infer", full)
    np.testing.assert_allclose(made.launch(batch).result(), expected, atol=2e-6)


def test_a_long_prefix_takes_few_rows():
    assert len(buckets([8] * 64, 512)) == 1
    assert [len(batch) for batch in buckets([8] * 8, 512, past=1000)] == [2, 2, 2, 2]


def test_handles_share_what_their_calls_begin_with(tmp_path, monkeypatch):
    queries, documents = ["怎么泡茶", "今天天气很好，我们去公园散步吧？", "好"], ["绿茶要用八十度的水", "公园散步"]
    options = {"device": "cpu", "dtype": "float32", "private": True}
    mistral, judge = tiny_mistral(tmp_path / "mistral"), tiny_qwen3(tmp_path / "judge", head=True)

    def results():
        with zr.load_encoder("e5-mistral", path=mistral, **options) as encoder:
            alone = [encoder.encode_queries([query]) for query in queries]
            vectors = np.concatenate([encoder.encode_queries(queries), *alone, encoder.encode_documents(documents)])
        with zr.load_reranker("qwen3-reranker-0.6b", path=judge, **options) as reranker:
            return vectors, reranker.score([(query, document) for query in queries for document in documents])

    shared, groups = [], Prefixes.groups

    def watched(self, tokens):
        found = groups(self, tokens)
        shared.extend(len(indices) for prefix, indices in found if prefix)
        return found

    monkeypatch.setattr(Prefixes, "groups", watched)
    found = results()
    assert shared == [1, 1, 1, 3, 2, 2, 2]
    monkeypatch.setattr(prefixes, "_LEAST", 10**9)
    for ours, whole in zip(found, results(), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-5)
