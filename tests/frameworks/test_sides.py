"""Two sides fused: which way scores run is seen by the answer, and one document is one by id, else by text."""

import asyncio
import math

import pytest

import zh_retrieval as zr
from zh_retrieval.frameworks.sides import Found, fuse_sides, side_by_side
from zh_retrieval.sparse.fusion import fuse


def found(*entries):
    """Return results of (item, id, text, score)."""
    return [Found(*entry) for entry in entries]


def ranked(scores):
    return found(*((name, name, f"text of {name}", score) for name, score in scores))


DENSE = [("a", 0.9), ("b", 0.8), ("c", 0.8), ("d", 0.1)]
LEXICAL = [("d", 12.0), ("b", 7.0), ("e", 1.0)]


def fused(dense, lexical, k=10, weight=0.5, depth=100):
    return [(each.item, each.score) for each in fuse_sides(dense, lexical, weight=weight, depth=depth, k=k)]


@pytest.mark.parametrize(
    "of_score", [lambda s: s, lambda s: 5 * s - 2, lambda s: -s, lambda s: 1 - s, lambda s: 2 - 2 * s]
)
def test_similarities_and_distances_of_one_kind_give_one_ranking(of_score):
    expected = [(each.id, each.score) for each in fuse(DENSE, LEXICAL, weight=0.5, depth=100)]
    got = fused(ranked([(name, of_score(score)) for name, score in DENSE]), ranked(LEXICAL))
    assert [name for name, _ in got] == [name for name, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected])


def test_scores_come_back_as_each_side_gave_them():
    distances = [(name, 1 - score) for name, score in DENSE]
    both = {each.item: (each.dense, each.lexical) for each in fuse_sides(
        ranked(distances), ranked(LEXICAL), weight=0.5, depth=100, k=10
    )}  # fmt: skip
    assert both == {name: (dict(distances).get(name), dict(LEXICAL).get(name)) for name in "abcde"}


@pytest.mark.parametrize("side", [[], [("a", 0.5)], [("a", 0.5), ("b", 0.5)]])
def test_a_side_that_says_nothing_leaves_the_other_ones_order(side):
    for names in (fused(ranked(side), ranked(LEXICAL)), fused(ranked(LEXICAL), ranked(side))):
        assert [name for name, _ in names if name in "dbe"] == ["d", "b", "e"]
        assert {name for name, _ in names} == {"d", "b", "e", *(name for name, _ in side)}


def test_no_results_give_no_results():
    assert fused([], []) == []


def test_equal_scores_with_rounding_are_equal():
    assert len(fused(ranked([("a", 0.5), ("b", 0.5000001), ("c", 0.5)]), [])) == 3


def test_an_answer_that_is_ordered_but_for_rounding_has_a_direction():
    rough = [("a", 0.9), ("c", 0.799999), ("b", 0.8), ("d", 0.1)]
    assert [name for name, _ in fused(ranked(rough), [])] == ["a", "b", "c", "d"]


def test_scores_without_order_are_refused():
    with pytest.raises(zr.InputError, match="neither fall nor rise"):
        fused(ranked([("a", 0.1), ("b", 0.9), ("c", 0.3)]), [])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(zr.InputError, match="Result 1 of the lexical side"):
        fused([], ranked([("a", 2.0), ("b", bad)]))


def test_one_document_is_known_by_its_id_then_by_its_text():
    dense = found(("d1", "1", "茶", 0.9), ("d2", "made by the store", "猫", 0.5), ("d3", None, "车", 0.4))
    lexical = found(("l1", "1", "茶！", 5.0), ("l2", "2", "猫", 4.0), ("l3", None, "车", 3.0), ("l4", "4", "雨", 1.0))
    assert sorted(name for name, _ in fused(dense, lexical)) == ["d1", "d2", "d3", "l4"]


def test_equal_texts_of_one_side_stay_two_documents():
    dense = found(("d1", None, "茶", 0.9), ("d2", None, "茶", 0.9), ("d3", None, "猫", 0.1))
    lexical = found(("l1", None, "茶", 5.0), ("l2", None, "茶", 5.0), ("l3", None, "茶", 5.0))
    assert sorted(name for name, _ in fused(dense, lexical)) == ["d1", "d2", "d3", "l3"]


def test_ids_win_over_texts():
    dense = found(("d1", "1", "茶", 0.9), ("d2", "2", "茶", 0.8))
    lexical = found(("l2", "2", "茶", 5.0), ("l3", "3", "茶", 4.0))
    both = {each.item: each.lexical for each in fuse_sides(dense, lexical, weight=0.5, depth=100, k=10)}
    assert both == {"d1": 4.0, "d2": 5.0}


def test_one_id_twice_counts_once_and_with_its_better_score():
    both = fuse_sides(ranked([("a", 0.9), ("b", 0.5), ("a", 0.2)]), [], weight=0.5, depth=100, k=10)
    assert [(each.item, each.dense) for each in both] == [("a", 0.9), ("b", 0.5)]


async def test_both_sides_are_awaited_together_and_an_error_ends_the_other():
    met = asyncio.Event()

    async def waits():
        await met.wait()
        return "dense"

    async def comes():
        met.set()
        return "lexical"

    assert await side_by_side(waits(), comes()) == ("dense", "lexical")
    ended = []

    async def long():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def fails():
        await asyncio.sleep(0)
        raise KeyError("lexical")

    with pytest.raises(KeyError):
        await side_by_side(long(), fails())
    assert ended == [True]
