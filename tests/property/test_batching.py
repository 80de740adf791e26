"""Whatever the lengths: every index once, within the budget, and results that depend on nothing but the text."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.depth import examples
from zh_retrieval.layers.packing import pack
from zh_retrieval.ranking import normalize_scores, rank_scores
from zh_retrieval.sequence import Tokens


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 3))
def test_packing_keeps_every_token_at_its_place(lengths, offset):
    tokens = [Tokens([number] * length) for number, length in enumerate(lengths)]
    batch = pack(tokens, torch.device("cpu"), offset)
    ids, positions = batch.input_ids[0], batch.position_ids[0]
    for number, (start, length) in enumerate(zip(batch.layout.starts, lengths, strict=True)):
        assert ids[start : start + length].tolist() == [number] * length
        assert positions[start : start + length].tolist() == list(range(offset, offset + length))
    assert batch.layout.cu_seqlens.tolist() == [*batch.layout.starts, sum(lengths)]
    covered = [row for start, size, length, _ in batch.layout.runs for row in range(start, start + size * length)]
    assert covered == list(range(sum(lengths)))


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=8), st.randoms())
def test_vectors_depend_on_nothing_but_the_text(encoder, texts, random):
    vectors = encoder.encode_documents(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    order = list(range(len(texts)))
    random.shuffle(order)
    shuffled = encoder.encode_documents([texts[index] for index in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_documents(texts[:1]), vectors[:1], atol=1e-5)


@given(st.lists(st.floats(-50, 50), max_size=30), st.one_of(st.none(), st.integers(1, 40)))
def test_ranking_is_a_stable_sort(scores, top_n):
    ranked = rank_scores(scores, top_n)
    assert [entry.index for entry in ranked] == sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top_n]
    assert [entry.score for entry in ranked] == [scores[entry.index] for entry in ranked]


@given(st.lists(st.floats(-1e4, 1e4, width=32), max_size=20))
def test_normalised_scores_lie_between_zero_and_one_and_keep_the_order(scores):
    values = normalize_scores(np.array(scores, dtype=np.float32), "sigmoid")
    assert all(0 <= value <= 1 for value in values)
    order = np.argsort(scores, kind="stable")
    assert all(values[a] <= values[b] for a, b in pairwise(order))
