"""Which script a text is in."""

import json
from pathlib import Path

import pytest

import zh_retrieval
from zh_retrieval.script import counts, script_of

SIMPLIFIED = "绿茶要用八十度的水冲泡，这样叶子不会发苦。"
TRADITIONAL = "綠茶要用八十度的水沖泡，這樣葉子不會發苦。"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (SIMPLIFIED, "simplified"),
        (TRADITIONAL, "traditional"),
        ("臺灣的捷運站裡可以買車票嗎？", "traditional"),
        ("为什么这个问题没有答案？他叫陈喆。", "simplified"),  # 喆, a name's character that GB 2312 lacks
        ("中文", None),
        ("green tea 80", None),
        ("", None),
        ("緑茶の飲み方と温度について説明します", None),
        ("ภาษาไทย\ud800", None),
    ],
)
def test_characters_of_one_script_alone_tell(text, script):
    assert script_of(text) == script


def test_characters_of_both_scripts_count_for_none():
    assert counts("后里台云人山水") == (0, 0)
    assert counts("国國发發") == (2, 2)


def test_every_passage_of_the_demo_is_simplified():
    folder = Path(zh_retrieval.__file__).parent / "builtin/demo"
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        assert script_of(json.loads(line)["text"]) == "simplified"
