"""`zh-retrieval doctor TEXT`: what models make of one text."""

import json

import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert
from zh_retrieval.cli.main import main
from zh_retrieval.cli.texts import examine_text


@pytest.fixture(autouse=True)
def _no_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))


def examined(text, name=None, path=None, max_length=None, cache_dir=None):
    return examine_text(text, name, path, cache_dir, max_length)


@pytest.mark.parametrize("text", ["綠茶要用八十度的水沖泡。", "green tea", "茶" * 900, "", " 绿茶 \n 红茶 "])
def test_tokens_are_those_that_the_model_counts(encoder, text, tmp_path):
    (row,) = examined(text, cache_dir=str(tmp_path))["models"]
    assert row["name"] == "e5-small-zh"
    assert [row["tokens"]] == encoder.token_counts([text])
    assert row["reads"] == encoder.max_length


def test_what_is_not_read_changes_no_vector_and_what_is_does(encoder):
    text = "茶叶的产地很多。" * 200
    (row,) = examined(text, "e5-small-zh")["models"]
    kept = text[: len(text) - row["unread"]]
    assert text[len(kept) :].startswith(row["unread_from"])
    whole, same, shorter = encoder.encode_documents([text, kept, kept[:-4]])
    assert abs(whole - same).max() < 1e-6
    assert abs(whole - shorter).max() > 1e-6


def test_unknown_characters_are_shown_each_once():
    found = examined("茶 ไทย 茶 ไทย 𠮷", "e5-small-zh")
    (row,) = found["models"]
    assert row["unknown"] == 3
    assert set(row["unknown_characters"]) == set("ไทย𠮷")
    assert found["script"] is None


def test_a_folder_and_a_length_of_ones_own(tmp_path, capsys):
    folder = tiny_bert(tmp_path)
    assert main(["doctor", "天气很好" * 9, "--model", f"bge-base-zh={folder}", "--max-length", "12", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["name"], row["reads"], row["tokens"], row["unread"]) == ("bge-base-zh-v1.5", 12, 38, 26)
    assert main(["doctor", "綠茶要沖泡"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("5 characters, script: traditional (0 of simplified alone, 2 of traditional alone)")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "bge-base-zh"], "--model goes with a TEXT"),
        (["茶", "--model", "bge-m3"], "bge-m3 is not on this machine. Run: zh-retrieval download bge-m3"),
        (["茶", "--path", "x"], "Give --model NAME=FOLDER"),
        (["茶\ud800"], "TEXT"),
    ],
)
def test_what_cannot_be_said_is_an_error(arguments, why, tmp_path, capsys):
    assert main(["doctor", *arguments, "--cache-dir", str(tmp_path)]) == 2
    assert why in capsys.readouterr().err


def test_a_broken_vocabulary_is_said_in_its_row(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (row,) = examined("茶", "bge-base-zh", str(tmp_path))["models"]
    assert "tokenizer" in row["problem"]
    assert issubclass(zr.CheckpointError, RuntimeError)
