"""Files of users: Markdown, tables, blank lines, ids."""

import io
import json
import sys
from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli.main import main
from zh_retrieval.files.reading.formats.markdown import passages
from zh_retrieval.files.reading.records import Reader, text_form

CPU = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def bert_flags(tmp_path_factory):
    return ["--model", "bge-large-zh", "--path", str(tiny_bert(tmp_path_factory.mktemp("bert"))), *CPU]


@pytest.fixture(scope="module")
def xlmr_flags(tmp_path_factory):
    return ["--path", str(tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))), *CPU]


# --- Markdown ------------------------------------------------------------------------------------------------------

MARKDOWN = {
    "hashtags": ("# 茶\n\n#茶 #饮料\n\n绿茶。\n", [("茶", "#茶 #饮料\n绿茶。")]),
    "a number sign": ("#1 是绿茶\n#2 是红茶\n", [("", "#1 是绿茶\n#2 是红茶")]),
    "headings without a body": (
        "# 茶\n## 绿茶\n好。\n## 红茶\n# 水", [("", "茶"), ("绿茶", "好。"), ("", "红茶"), ("", "水")],
    ),
    "a comment in a fence": ("# 安装\n\n```sh\n# 先更新\nmake\n```\n", [("安装", "```sh\n# 先更新\nmake\n```")]),
    "a comment in an open fence": ("# 安装\n\n~~~\n# 先更新\n", [("安装", "~~~\n# 先更新")]),
    "a comment in indented code": ("# 安装\n\n    # 先更新\n", [("安装", "# 先更新")]),
    "setext headings": ("绿\n茶\n==\n\n好。\n\n水温\n---\n八十度。\n", [("绿 茶", "好。"), ("水温", "八十度。")]),
    "closing marks": ("## 茶 ##\n好。", [("茶", "好。")]),
    "a heading right after text": ("前言\n# 茶\n好。", [("", "前言"), ("茶", "好。")]),
    "a link's definition": ("# 茶\n\n[绿]: http://a.cn '名'\n", [("茶", "[绿]: http://a.cn '名'")]),
    "a heading within a list": ("- # 茶\n  好。\n", [("", "- # 茶\n  好。")]),
    "front matter": (
        "---\ntitle: '茶经'\ntags: [茶]\n---\n前言。\n\n# 一\n好。\n", [("茶经", "tags: [茶]\n前言。"), ("一", "好。")],
    ),
    "front matter with a title only": ("---\ntitle: 茶经\n---\n# 一\n好。", [("", "茶经"), ("一", "好。")]),
    "TOML front matter": ('+++\ntitle = "茶经"\ndraft = true\n+++\n好。', [("茶经", "draft = true\n好。")]),
    "a line, and no front matter": ("---\n绿茶。\n\n---\n\n红茶。", [("", "---\n绿茶。\n---\n红茶。")]),
    "carriage returns": ("# 茶\r\n\r\n好。\r\n", [("茶", "好。")]),
    "HTML and tables": ("<!-- 注 -->\n\n|茶|\n|-|\n|绿|\n", [("", "<!-- 注 -->\n|茶|\n|-|\n|绿|")]),
    "nothing": ("\n \n", []),
}  # fmt: skip


@pytest.mark.parametrize("case", MARKDOWN)
def test_markdown_in_the_wild(case):
    text, expected = MARKDOWN[case]
    assert list(passages(text)) == expected


PARTS = [
    "# ", "#", "## 绿", "茶", "。", "\n", "\n\n", "---\n", "===\n", "```\n", "    ", "- ", "> ", "[a]: /b\n",
    "title: x\n", "|a|\n|-|\n",
    "<div>\n", "\t", "1. ", "\\", "&amp;", "\r\n", "\x0c", "\u2028", "\0", "\udcff", "a" * 300,
]  # fmt: skip
MARKS = str.maketrans("", "", "#=-'\" \n\r\t\f\u2028\0\ufffd")  # NUL becomes U+FFFD in CommonMark


@example("# 绿\n" + "a" * 300 + "。" + "a" * 300)  # cut at the end of a sentence, within what has no space
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_every_word_of_markdown_is_in_a_passage(text):
    found = list(passages(text))
    assert all(body.strip() for _, body in found)
    sections = groupby(found, key=itemgetter(0))  # what is cut in two has its heading twice
    shown = "".join(heading + "".join(body for _, body in part) for heading, part in sections).translate(MARKS)
    for word in text.replace("title:", " ").split():
        assert word.translate(MARKS) in shown


def test_files_of_one_name_in_two_folders_are_two_sources(tmp_path, capsys, bert_flags):
    for name, text in (("tea", "绿茶用八十度的水。"), ("cat", "猫一天睡十几个小时。")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}\n\n{text}\n", encoding="utf-8")
    (tmp_path / "folder.md").mkdir()
    demo = ["demo", "--input", str(tmp_path), "--query", "茶", "--framework", "both", "--json", *bert_flags]
    assert main(demo) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passages"] == 2
    assert {hit["id"] for hit in report["answers"][0]["hits"]} == {
        f"{tmp_path / name / 'README.md'}:1" for name in ("tea", "cat")
    }


def test_equal_ids_are_kept_apart_and_named(tmp_path, capsys, bert_flags):
    for name in ("a", "b"):
        rows = [{"_id": f"{number}", "text": f"{name}{number}"} for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    demo = ["demo", "--input", str(tmp_path), "--query", "a1", "--framework", "core", "--json", *bert_flags]
    assert main(demo) == 0
    report = json.loads(capsys.readouterr().out)
    hits = {hit["id"] for hit in report["answers"][0]["hits"]}
    assert len(hits) == report["passages"] == 8
    assert f"0 (line 1 of {tmp_path / 'b.jsonl'})" in hits
    assert f"id '0' is given twice, at line 1 of {tmp_path / 'a.jsonl'} and line 1 of" in report["notes"][0]
    assert report["notes"][3] == "1 more ids are given twice."


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables_are_read_by_their_header(tmp_path, bert_flags, suffix, mark):
    source, output = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    rows = [("编号", "标题", "正文"), ("7", "茶", f'"绿茶{mark}\n""好"""'), ("8", "", "水")]
    source.write_bytes("\ufeff".encode() + "\r\n\r\n".join(mark.join(row) for row in rows).encode())
    arguments = ["embed", str(source), "-o", str(output), "--text-field", "正文", "--title-field", "标题", *bert_flags]
    assert main(arguments) == 0
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(row["编号"], row["正文"]) for row in found] == [("7", f'绿茶{mark}\n"好"'), ("8", "水")]
    with zr.load_encoder("bge-large-zh", path=bert_flags[3], device="cpu", dtype="float32") as encoder:
        expected = encoder.encode_documents([f'茶\n绿茶{mark}\n"好"', "水"])
    np.testing.assert_array_equal(np.float32([row["embedding"] for row in found]), expected)


BAD_TABLES = {
    "a missing column": ("id,title\n1,茶\n", "{} has no column 'text', only 'id', 'title'"),
    "a wide row": ("id,text\n1,a,b\n", "line 2 of {}: 3 columns, expected 2 ('id', 'text')"),
    "an open quote": ('id,text\n1,"a\n2,b\n', "line 2 of {}: no row of a table"),
    "a column twice": ("text,text\n1,a\n", "line 1 of {}: the header names a column twice"),
    "GBK": ("id,text\n1,茶\n".encode("gbk"), "line 2 of {}: byte 0xb2 at character 0 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_is_no_table_is_refused_by_line(tmp_path, case):
    content, message = BAD_TABLES[case]
    source = tmp_path / "in.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(zr.InputError) as error:
        list(Reader(text_form()).read([str(source)]))
    assert str(error.value).startswith(message.format(source))


# --- blank lines and ids -------------------------------------------------------------------------------------------


def test_row_i_of_the_vectors_is_line_i_of_a_text(tmp_path, capsys, bert_flags):
    source, output = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("天气\n\n公园\n  \n", encoding="utf-8")
    assert main(["embed", str(source), "-o", str(output), *bert_flags]) == 0
    assert "2 blank lines were read as empty texts: row i is line i" in capsys.readouterr().err
    with zr.load_encoder("bge-large-zh", path=bert_flags[3], device="cpu", dtype="float32") as encoder:
        expected = encoder.encode_documents(["天气", "", "公园", "  "])
    np.testing.assert_array_equal(np.load(output), expected)


def test_blank_lines_without_a_row_are_counted(tmp_path, capsys, monkeypatch, bert_flags):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("天气\n\n公园\n".encode()), "utf-8"))
    assert main(["embed", "-", "-o", "-", *bert_flags]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == ["stdin:1", "stdin:3"]
    assert "1 blank lines were passed over: they have no row" in shown.err
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "天气"}\n\n{"text": "公园"}\n', encoding="utf-8")
    assert main(["embed", str(source), "-o", str(tmp_path / "out.npy"), *bert_flags]) == 0
    assert "1 blank lines were passed over: they have no row" in capsys.readouterr().err


def test_a_demo_has_no_passages_of_blank_lines(tmp_path, capsys, bert_flags):
    (tmp_path / "in.txt").write_text("天气\n\n公园\n", encoding="utf-8")
    demo = ["demo", "--input", str(tmp_path), "--query", "茶", "--framework", "core", "--json", *bert_flags]
    assert main(demo) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 2


@pytest.mark.parametrize("name", ["id", "_id"])
def test_ids_of_beir_are_known(tmp_path, bert_flags, xlmr_flags, name):
    import pyarrow.parquet as pq

    queries, corpus, run, output = (tmp_path / file for file in ("q.jsonl", "c.jsonl", "run.txt", "out.txt"))
    queries.write_text(json.dumps({name: "q1", "text": "茶", "metadata": {}}), encoding="utf-8")
    corpus.write_text(json.dumps({name: "d1", "title": "", "text": "绿茶"}), encoding="utf-8")
    run.write_text("q1 Q0 d1 1 3.5 bm25\n", encoding="utf-8")
    flags = ["--queries", str(queries), "--corpus", str(corpus), *xlmr_flags]
    assert main(["rerank", "--run", str(run), "-o", str(output), *flags]) == 0
    assert output.read_text(encoding="utf-8").startswith("q1 Q0 d1 1 ")
    assert main(["embed", str(corpus), "-o", str(tmp_path / "out.parquet"), *bert_flags]) == 0
    assert pq.read_table(tmp_path / "out.parquet").column("id").to_pylist() == ["d1"]


def test_equal_ids_of_a_corpus_are_named(tmp_path, capsys, xlmr_flags):
    queries, corpus, run = (tmp_path / file for file in ("q.jsonl", "c.jsonl", "run.txt"))
    queries.write_text('{"id": "q1", "text": "茶"}\n', encoding="utf-8")
    corpus.write_text('{"id": "d1", "text": "绿茶"}\n{"_id": "d1", "text": "红茶"}\n', encoding="utf-8")
    run.write_text("q1 Q0 d1 1 3.5 bm25\n", encoding="utf-8")
    arguments = ["rerank", "--run", str(run), "--queries", str(queries), "--corpus", str(corpus), *xlmr_flags]
    assert main([*arguments, "-o", str(tmp_path / "out.txt")]) == 2
    assert f"line 2 of {corpus}: id 'd1' is that of line 1 of {corpus}" in capsys.readouterr().err
    assert main([*arguments, "-o", str(tmp_path / "out.txt"), "--on-error", "skip"]) == 0
    assert "1 lines were skipped" in capsys.readouterr().err
