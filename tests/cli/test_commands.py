"""The command line, in process and as real processes."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.cli.commands import embed
from zh_retrieval.cli.main import main
from zh_retrieval.files.reading.formats.markdown import passages
from zh_retrieval.hub.snapshot import size_on_disk
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.table import fit, width

FLAGS = ["--device", "cpu", "--dtype", "float32"]


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "zh_retrieval.cli.main", *map(str, arguments)],
        capture_output=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, **options,
    )  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    rows = [{"id": f"d{n}", "title": "标题" if n % 2 else "", "text": f"第{n}段文字", "lang": "zh"} for n in range(30)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def embedded_texts():
    return [f"标题\n第{n}段文字" if n % 2 else f"第{n}段文字" for n in range(30)]


def test_models_lists_all_with_their_hub_ids(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    for part in ("bge-base-zh-v1.5", "AI-ModelScope/bge-base-zh-v1.5", "768", "8192", "Tongyi Qianwen", "built in"):
        assert part in table
    assert main(["models", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(MODELS)


def test_listing_models_imports_nothing_heavy():
    code = """
import sys
from zh_retrieval.cli.main import main
main(["models"])
print(sorted({"torch", "numpy", "transformers"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")


def test_embed_jsonl_keeps_fields_and_gives_the_encoders_vectors(corpus, tmp_path, encoder):
    output = tmp_path / "out.jsonl"
    assert main(["embed", str(corpus), "-o", str(output), *FLAGS]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"d{n}" for n in range(30)]
    assert rows[1]["lang"] == "zh"
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(vectors, encoder.encode_documents(embedded_texts()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out.jsonl"]


def test_embed_npy_and_parquet_hold_the_same_vectors(corpus, tmp_path, encoder):
    import pyarrow.parquet as pq

    expected = encoder.encode_documents(embedded_texts())
    assert main(["embed", str(corpus), "-o", str(tmp_path / "out.npy"), *FLAGS]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert main(["embed", str(corpus), "-o", str(tmp_path / "out.parquet"), *FLAGS]) == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("id").to_pylist()[:2] == ["d0", "d1"]
    np.testing.assert_array_equal(np.array(table.column("embedding").to_pylist(), dtype=np.float32), expected)


@pytest.mark.parametrize("form", ["out.jsonl", "out.parquet", "out.npy", "-"])
def test_an_older_vector_in_the_input_gives_way_and_that_is_said_once(form, tmp_path, capsys, encoder, monkeypatch):
    given = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": str(n), "text": f"第{n}段", "embedding": [n]}) for n in range(300)]
    given.write_text("\n".join(lines), encoding="utf-8")
    output = form if form == "-" else str(tmp_path / form)
    monkeypatch.setattr(embed, "_WINDOW", 128)
    assert main(["embed", str(given), "-o", output, *FLAGS]) == 0
    found = capsys.readouterr()
    assert found.err.count("'embedding' of the input is left out of the output") == 1
    if form == "-":
        rows = [json.loads(line) for line in found.out.splitlines()]
        expected = encoder.encode_documents([f"第{n}段" for n in range(3)])
        np.testing.assert_array_equal(np.array([row["embedding"] for row in rows[:3]], np.float32), expected)


def test_embed_reads_stdin_and_writes_stdout(monkeypatch, capsys, encoder):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("你好\n\n世界\n".encode()), "utf-8"))
    assert main(["embed", "-", "-o", "-", "--as", "query", *FLAGS]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["你好", "世界"]
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(vectors, encoder.encode_queries(["你好", "世界"]))


def test_empty_input_gives_an_empty_output(tmp_path):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    assert main(["embed", str(tmp_path / "empty.txt"), "-o", str(tmp_path / "out.npy"), *FLAGS]) == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 384)


def test_bad_lines_are_named_by_number_or_skipped(tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"text": "好"}\n{broken\n{"text": 3}\n{"text": "\\ud800"}\n[1]\n{"text": "行"}\n', encoding="utf-8"
    )
    output = tmp_path / "out.jsonl"
    assert main(["embed", str(file), "-o", str(output), *FLAGS]) == 2
    assert f"line 2 of {file}" in capsys.readouterr().err
    assert not output.exists()
    assert main(["embed", str(file), "-o", str(output), "--on-error", "skip", *FLAGS]) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    errors = capsys.readouterr().err
    assert all(f"line {number} of" in errors for number in (2, 3, 4, 5))
    assert "4 lines were skipped" in errors


def test_another_jobs_windows_are_not_resumed(corpus, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    staging = tmp_path / "out.jsonl.partial"
    staging.mkdir()
    (staging / "job.json").write_text("{}", encoding="utf-8")
    (staging / "00000000").write_text("finished by another job", encoding="utf-8")
    assert main(["embed", str(corpus), "-o", str(output), *FLAGS]) == 2
    assert "--restart" in capsys.readouterr().err
    assert main(["embed", str(corpus), "-o", str(output), "--restart", *FLAGS]) == 0
    assert output.exists()


def test_errors_are_one_line_with_exit_status_two(tmp_path, capsys):
    for arguments, message in [
        (["embed", "missing.txt", "-o", str(tmp_path / "x.npy")], "missing.txt is not a file"),
        (["embed", "-", "-o", str(tmp_path / "x.docx")], "expected .jsonl, .npy or .parquet"),
        (["embed", "-", "-o", str(tmp_path / "no" / "x.npy")], "is not a folder"),
        (["embed", "-", "-o", "-", "--model", "bge-bas-zh"], "Did you mean bge-base-zh-v1.5?"),
        (["embed", "-", "-o", "-", "--instruction", "x"], "--instruction is for queries"),
        (["demo", "--input", __file__], "is no file of a known kind"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "zh_retrieval.cli.main", "embed", "-", "-o", "-", *FLAGS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    process.stdout.close()
    process.stdin.write("好\n".encode() * 300)
    process.stdin.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))


def test_rerank_scores_and_sorts(tmp_path, reranker_folder):
    import zh_retrieval as zr

    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    documents = ["绿茶", {"id": "b", "text": "红茶", "title": "茶"}, "咖啡"]
    source.write_text(json.dumps({"query": "茶", "documents": documents, "id": 7}) + "\n", encoding="utf-8")
    flags = ["--path", str(reranker_folder), *FLAGS]
    assert main(["rerank", str(source), "-o", str(output), "--top-n", "2", *flags]) == 0
    row = json.loads(output.read_text(encoding="utf-8"))
    with zr.load_reranker("bge-reranker-large", path=reranker_folder, device="cpu", dtype="float32") as reranker:
        ranked = reranker.rank("茶", ["绿茶", "茶\n红茶", "咖啡"], top_n=2)
    assert row["id"] == 7
    assert [(d["index"], d["score"]) for d in row["documents"]] == [(r.index, r.score) for r in ranked]


def test_rerank_takes_and_gives_trec_runs(tmp_path, reranker_folder):
    queries, corpus, run = (tmp_path / name for name in ("q.jsonl", "c.jsonl", "run.txt"))
    queries.write_text('{"id": "q1", "text": "茶"}\n', encoding="utf-8")
    corpus.write_text('{"id": "a", "text": "绿茶"}\n{"id": "b", "text": "咖啡"}\n', encoding="utf-8")
    run.write_text("q1 Q0 a 1 3.5 bm25\nq1 Q0 b 2 2.5 bm25\n", encoding="utf-8")
    output = tmp_path / "out.txt"
    flags = ["--queries", str(queries), "--corpus", str(corpus), "--path", str(reranker_folder), *FLAGS]
    assert main(["rerank", "--run", str(run), "-o", str(output), *flags]) == 0
    rows = [line.split() for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row[:2] + row[3:4] + row[5:] for row in rows] == [
        ["q1", "Q0", str(n), "bge-reranker-large"] for n in (1, 2)
    ]
    assert float(rows[0][4]) >= float(rows[1][4])
    assert {row[2] for row in rows} == {"a", "b"}


@pytest.mark.slow
def test_demo_answers_through_both_frameworks(capsys):
    assert main(["demo", "--json", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [summary["framework"] for summary in report["frameworks"]] == ["langchain", "llama-index"]
    assert all(summary["hit@1"] >= 0.85 and summary["mrr@10"] >= 0.9 for summary in report["frameworks"])
    assert report["frameworks_agree"] is True
    for summary in report["frameworks"]:  # each side alone, as it was before there were two
        assert summary["dense_alone"]["hit@1"] >= 0.9
        assert 0.7 <= summary["bm25_alone"]["hit@1"] <= 0.9
    (quick,) = (row for row in report["answers"] if row["question"] == "为什么刚出锅的热饭炒出来总是黏成一坨？")
    assert quick["dense_alone"][0] != quick["answer"] == quick["bm25_alone"][0] == quick["hits"][0]["id"]
    assert report["passages"] >= 80
    assert report["questions"] >= 60


def test_demo_searches_a_folder_of_the_user(tmp_path, capsys, reranker_folder):
    (tmp_path / "a.md").write_text("# 猫\n\n猫喜欢睡觉。\n\n# 狗\n\n狗喜欢散步。\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("股票今天下跌\n", encoding="utf-8")
    arguments = ["demo", "--input", str(tmp_path), "--query", "哪种动物爱散步？", "--framework", "core", *FLAGS]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[4].split()[1:4] == ["狗", "狗", "狗"]  # both sides, the model alone, BM25 alone
    assert main([*arguments, "--query", "xyz"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("xyz"))
    assert row[3] == "-"  # BM25 alone finds nothing
    reranking = ["--reranker", "bge-reranker-large", "--reranker-path", str(reranker_folder)]
    assert main([*arguments[:-6], "--framework", "both", *FLAGS, *reranking, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frameworks_agree"] is True


def test_doctor_reports_machine_caches_and_models(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    assert main(["doctor", "--json", "--cache-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["openvino"]
    assert report["auto"]["dtype"] in ("float32", "bfloat16", "float16")
    assert report["hubs"] == {"modelscope": None, "huggingface": None}
    states = {model["name"]: model["state"] for model in report["models"]}
    assert states["e5-small-zh"] == "present"
    assert states["rankinggpt-qwen-7b"] == "absent"
    assert main(["doctor", "--cache-dir", str(tmp_path)]) == 0
    assert "ZH_RETRIEVAL_OFFLINE is set" in capsys.readouterr().out


def test_wide_characters_take_two_columns():
    assert width("ab中文") == 6
    assert fit("中文字", 5) == "中文…"
    assert fit("中文字", 4) == "中… "
    assert fit("a", 3) == "a  "


def test_markdown_becomes_passages_under_their_headings():
    text = "# 一\n\n" + "句子。" * 150 + "\n\n## 二\n\n短段。\n\n另一段。\n"
    found = list(passages(text))
    assert [title for title, _ in found] == ["一", "一", "二"]
    assert all(len(body) <= 400 for _, body in found)
    assert found[2][1] == "短段。\n另一段。"
    assert "".join(body for title, body in found if title == "一") == "句子。" * 150


def test_sizes_follow_the_disk(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    assert size_on_disk(tmp_path) == 3
