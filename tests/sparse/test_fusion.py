"""The rules of fusion, one by one; scores against numpy's."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import zh_retrieval as zr

SIDE = st.lists(
    st.tuples(st.integers(0, 20), st.floats(-1e6, 1e6, allow_subnormal=False)), max_size=25, unique_by=lambda it: it[0]
)
Z = math.sqrt(1.5)  # of the first of three equidistant scores


def side(**scores):
    return list(scores.items())


def scores(*arguments, **keywords):
    return {it.id: pytest.approx(it.score, abs=1e-12) for it in zr.fuse(*arguments, **keywords)}


def test_the_sum_of_z_scores_decides_and_raw_scores_come_back():
    found = zr.fuse(side(a=3.0, b=2.0, c=1.0), side(b=9.0, c=3.0), weight=0.75)
    assert [it.id for it in found] == ["a", "b", "c"]
    assert [it.score for it in found] == pytest.approx([0.75 * Z - 0.25, 0.25, -0.75 * Z - 0.25])
    assert [(it.dense, it.lexical) for it in found] == [(3.0, None), (2.0, 9.0), (1.0, 3.0)]


def test_what_a_side_did_not_find_gets_that_sides_lowest():
    assert scores(side(a=2.0, b=1.0), side(c=2.0, b=1.0)) == {"a": 0.0, "b": -1.0, "c": 0.0}


def test_an_empty_side_adds_nothing():
    assert scores(side(a=3.0, b=2.0, c=1.0), []) == {"a": Z / 2, "b": 0.0, "c": -Z / 2}
    assert scores([], side(a=3.0, b=2.0, c=1.0)) == {"a": Z / 2, "b": 0.0, "c": -Z / 2}
    assert zr.fuse([], []) == []


@pytest.mark.parametrize("score", [0.0, 0.1, -7.3, 1e300, 5e-324])
def test_equal_scores_say_nothing(score):
    equal = [(name, score) for name in "abc"]
    assert scores(equal, side(c=2.0, b=1.0)) == {"c": 0.5, "b": -0.5, "a": -0.5}
    assert [it.id for it in zr.fuse(equal, [])] == ["a", "b", "c"]
    assert scores(side(a=score), side(b=2.0, c=1.0)) == {"a": -0.5, "b": 0.5, "c": -0.5}


def test_scores_that_differ_by_rounding_alone_are_equal():
    assert scores([("a", 0.1 + 0.2), ("b", 0.3)], []) == {"a": 0.0, "b": 0.0}


def test_scale_and_shift_of_a_side_change_nothing():
    dense, lexical = side(a=0.9, b=0.5, c=0.4), side(c=9.0, b=3.0, d=1.0)
    moved = [(id, 1000 * score - 5000) for id, score in dense]
    assert scores(moved, lexical) == {it.id: it.score for it in zr.fuse(dense, lexical)}


def test_only_the_first_of_each_side_count_and_fewer_will_do():
    dense = [(number, 10.0 - number) for number in range(10)]
    assert [it.id for it in zr.fuse(dense, [], depth=3)] == [0, 1, 2]
    assert zr.fuse(dense, [], depth=3) == zr.fuse(dense[:3], [], depth=100)
    assert len(zr.fuse(dense, [(99, 1.0)])) == 11


def test_an_id_that_a_side_has_twice_counts_where_it_stands_first():
    twice = [("a", 3.0), ("a", 1.0), ("b", 2.0), ("c", 1.0)]
    assert zr.fuse(twice, [], depth=3) == zr.fuse(side(a=3.0, b=2.0, c=1.0), [])


def test_equal_sums_are_ordered_by_the_dense_side_then_by_the_lexical_one():
    found = zr.fuse(side(a=2.0, b=1.0), side(c=2.0, d=1.0))
    assert [it.id for it in found] == ["a", "c", "b", "d"]
    found = zr.fuse([], [("z", 1.0), ("y", 1.0), ("x", 1.0)])
    assert [it.id for it in found] == ["z", "y", "x"]


def test_at_weight_1_and_0_one_side_decides():
    dense, lexical = side(a=2.0, b=1.0), side(b=2.0, c=1.0)
    assert [it.id for it in zr.fuse(dense, lexical, weight=1)] == ["a", "b", "c"]
    assert [it.id for it in zr.fuse(dense, lexical, weight=0)] == ["b", "a", "c"]


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, True, "0.5", None])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(zr.ConfigError, match="from 0 to 1"):
        zr.fuse([], [], weight=weight)


@pytest.mark.parametrize("depth", [0, -1, 1.5, True])
def test_a_depth_that_is_no_number_is_refused(depth):
    with pytest.raises(zr.ConfigError, match="depth="):
        zr.fuse([], [], depth=depth)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(zr.InputError, match="Result 1 of the lexical side"):
        zr.fuse([], [("a", 1.0), ("b", score)])


@given(SIDE, SIDE, st.floats(0, 1))
@example([(0, 0.0)], [(0, 0.0)], 0.0)
def test_every_result_is_there_once_with_numpys_score(dense, lexical, weight):
    found = zr.fuse(dense, lexical, weight=weight)
    assert sorted(it.id for it in found) == sorted({id for id, _ in (*dense, *lexical)})
    assert [it.score for it in found] == sorted((it.score for it in found), reverse=True)
    assert found == zr.fuse(dense, lexical, weight=weight)
    if not (dense and lexical):
        return
    zs = []
    for results in (dense, lexical):
        values = np.array([score for _, score in results])
        if values.std() <= 1e-6 * np.abs(values).max():
            return
        zs.append(dict(zip([id for id, _ in results], (values - values.mean()) / values.std(), strict=True)))
    for it in found:
        first, second = (z.get(it.id, min(z.values())) for z in zs)
        assert it.score == pytest.approx(weight * first + (1 - weight) * second, abs=1e-6)
