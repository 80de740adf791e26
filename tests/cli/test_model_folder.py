"""Wherever a command takes a model, it takes NAME=FOLDER too, and means what --path means."""

import json

import numpy as np
import pytest

from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli.main import main

FLAGS = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("mine=v2") / "bert")  # a folder's name may hold "="


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("绿茶\n红茶\n", encoding="utf-8")
    return file


def test_embed_takes_a_folder_with_the_name(folder, text, tmp_path):
    one, other = tmp_path / "one.npy", tmp_path / "other.npy"
    assert main(["embed", str(text), "-o", str(one), "-m", f"bge-base-zh={folder}", *FLAGS]) == 0
    assert main(["embed", str(text), "-o", str(other), "-m", "bge-base-zh", "--path", str(folder), *FLAGS]) == 0
    np.testing.assert_array_equal(np.load(one), np.load(other))


def test_rerank_takes_a_folder_with_the_name(reranker_folder, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"query": "茶", "documents": ["绿茶", "水"]}) + "\n", encoding="utf-8")
    named = ["-m", f"bge-reranker-large={reranker_folder}"]
    apart = ["-m", "bge-reranker-large", "--path", str(reranker_folder)]
    for output, model in (("one", named), ("other", apart)):
        assert main(["rerank", str(file), "-o", str(tmp_path / output), *model, *FLAGS]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_demo_takes_folders_with_both_names(folder, reranker_folder, text, capsys):
    demo = ["demo", "--input", str(text), "--query", "茶", "--framework", "core", "--json", *FLAGS]
    models = ["-m", f"bge-base-zh={folder}", "--reranker", f"bge-reranker-large={reranker_folder}"]
    assert main([*demo, *models]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["reranker"]) == ("bge-base-zh", "bge-reranker-large")


def test_doctor_takes_a_folder_with_the_name(folder, capsys):
    main(["doctor", "--json", "--selftest", f"bge-base-zh={folder}", *FLAGS])
    assert any(check["passed"] for check in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["bench", "--random", "-m", "bge-base-zh=/x"], "--random writes weights of its own"),
        (["bench", "-m", "bge-base-zh="], "is no model. Expected NAME or NAME=FOLDER"),
        (["demo", "-m", "=/x"], "is no model"),
        (["demo", "--reranker", "bge-reranker-large=/x", "--reranker-path", "/y"], "--reranker-path another"),
        (["embed", "x.txt", "-o", "y.npy", "-m", "bge-base-zh=/x", "--path", "/y"], "names one folder, --path another"),
        (["download", "bge-base-zh=/x"], "nothing to download"),
    ],
)
def test_what_contradicts_itself_is_said(command, said, capsys):
    assert main(command) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("query", ["", "  ", "绿茶" * 2000])
def test_a_query_without_a_score_is_said_with_its_line(query, reranker_folder, tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    rows = [{"query": "茶", "documents": ["绿茶", "水"]}, {"query": query, "documents": ["绿茶"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = ["-m", f"bge-reranker-large={reranker_folder}"]
    assert main(["rerank", str(file), "-o", str(tmp_path / "out.jsonl"), *model, *FLAGS]) == 2
    assert f"line 2 of {file}" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "meant"), [(["serv"], "serve"), (["embed", "x", "-o", "y", "--modle", "z"], "--model")]
)
def test_what_was_probably_meant_is_named(command, meant, capsys):
    with pytest.raises(SystemExit):
        main(command)
    assert f"Did you mean {meant}?" in capsys.readouterr().err
