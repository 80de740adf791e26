"""What BM25 counts."""

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zh_retrieval as zr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("绿茶ＡＢ用80度水", ["绿茶", "ab", "用", "80", "度水"]),
        ("ＧＰＴ模型在２０２４年", ["gpt", "模型", "型在", "2024", "年"]),
        ("綠茶 绿茶", ["綠茶", "绿茶"]),
        ("ｶﾞｷﾞのお茶", ["ガギ", "ギの", "のお", "お茶"]),
        ("한국어", ["한국", "국어"]),
        ("卡尔・马克思，卡尔·马克思", ["卡尔", "马克", "克思"] * 2),
        ("Straße STRASSE Ⅳ ﬁn", ["strasse", "strasse", "iv", "fin"]),
        ("foo_bar(x1) += 0x1F;", ["foo", "bar", "x1", "0x1f"]),
        ("हिन्दी में café cafe\u0301", ["हिन्दी", "में", "café", "café"]),
        ("好👍🏽👨\u200d👩\u200d👧茶", ["好", "茶"]),
        ("绿\u200b茶\u00ad水", ["绿茶", "茶水"]),
        ("葛\U000e0100飾", ["葛飾"]),
        ("𠮷野家", ["𠮷野", "野家"]),
        ("\ud800茶\udfff", ["茶"]),
        ("\0\n ，。", []),
        ("", []),
    ],
)
def test_terms_are_pairs_and_words(text, expected):
    assert zr.terms(text) == expected


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_terms_of_any_text_are_folded_already_and_can_be_written(text):
    for term in zr.terms(text):
        assert term
        term.encode("utf-8")
        assert all(part in zr.terms(text) for part in zr.terms(term))


@pytest.mark.timing
@pytest.mark.parametrize("part", ["绿茶水温", "word ", "a\u0300\u0316", "\u0316\u0300", "ﷺ", "_", "茶a1"])
def test_time_and_memory_are_linear(part):
    def cost(times):
        text = part * times
        tracemalloc.start()
        start = time.perf_counter()
        zr.terms(text)
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return seconds, peak

    zr.terms("热")
    (little, small), (much, large) = cost(20_000), cost(200_000)
    assert much < 30 * little + 0.05
    assert large < 15 * small + 100_000


def test_a_million_marks_on_one_letter_are_folded_at_once():
    assert zr.terms("a" + "\u0300\u0316" * 200_000 + "茶")[-1] == "茶"  # hours, if marks were sorted all together
