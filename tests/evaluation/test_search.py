"""Exact search against a plain sort, with ties, many vectors a passage, and tiles."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from zh_retrieval.evaluation.systems import search as module
from zh_retrieval.evaluation.systems.search import order, search


def made_up(passages, seed=0, copies=True, chunks=False):
    """Return blocks of unequal size, in which every third passage has the vectors of an earlier one."""
    rng = np.random.default_rng(seed)
    vectors = []
    for place in range(passages):
        count = int(rng.integers(1, 4)) if chunks else 1
        copied = copies and place and rng.random() < 0.33
        vectors.append(vectors[rng.integers(0, place)] if copied else rng.normal(size=(count, 24)).astype(np.float32))
    cuts = sorted({0, 1, passages // 3, passages // 2, passages})
    return vectors, [
        (np.concatenate(vectors[low:high]), np.array([len(v) for v in vectors[low:high]]))
        for low, high in pairwise(cuts)
    ]


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize(("passages", "top_k"), [(500, 10), (40, 100), (500, 499), (2, 1)])
def test_search_is_a_sort_of_all_scores_with_ties_by_id(monkeypatch, passages, top_k, chunks):
    monkeypatch.setattr(module, "_TILE", 7)
    vectors, blocks = made_up(passages, chunks=chunks)
    ids = [f"d{n}" for n in np.random.default_rng(1).permutation(passages)]
    queries = np.random.default_rng(2).normal(size=(20, 24)).astype(np.float32)
    found = search(queries, lambda: blocks, ids, top_k)
    for query, ranking in zip(queries, found, strict=True):
        products = [np.float32((query.astype(np.float64) * v).sum(axis=1).max()) for v in vectors]
        expected = order(ids, products)[:top_k]
        assert list(ranking.ids) == expected
        assert ranking.scores == tuple(float(dict(zip(ids, products, strict=True))[name]) for name in expected)


def test_all_passages_alike_come_by_id():
    block = np.ones((64, 24), dtype=np.float32), np.ones(64, dtype=np.int64)
    (ranking,) = search(np.ones((1, 24), dtype=np.float32), lambda: [block], [f"{n:03d}" for n in range(64)], 5)
    assert ranking.ids == ("063", "062", "061", "060", "059")


def test_progress_counts_every_passage_once():
    _, blocks = made_up(100)
    moved = []
    search(np.ones((3, 24), dtype=np.float32), lambda: blocks, [str(n) for n in range(100)], 5, moved.append)
    assert sum(moved) == 100


def test_memory_does_not_grow_with_the_corpus():
    queries = np.random.default_rng(2).normal(size=(200, 64)).astype(np.float32)

    def peak(count):
        def blocks():
            for seed in range(count):
                vectors = np.random.default_rng(seed).standard_normal((512, 64), dtype=np.float32)
                yield vectors, np.ones(512, dtype=np.int64)

        ids = [str(n) for n in range(512 * count)]
        tracemalloc.start()
        search(queries, blocks, ids, 10)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - 8 * 2 * len(ids)  # the order of ids: two numbers a passage

    assert peak(80) < 1.2 * peak(10)
