"""`embed` and `rerank` over real corpora: ids and columns stay, what was computed is kept, nonsense is refused."""

import gzip
import json
import shutil
import sys
import time

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli import console
from zh_retrieval.cli.commands import embed as embedding
from zh_retrieval.cli.main import main

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")

CPU = ["--device", "cpu", "--dtype", "float32"]
LINES = 700  # of a corpus of several windows


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(embedding, "_WINDOW", 64)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tiny_bert(tmp_path_factory.mktemp("bert"))
    with zr.load_encoder("bge-large-zh", path=folder, device="cpu", dtype="float32"):  # loaded once for all commands
        yield folder


@pytest.fixture(scope="module")
def bert_flags(bert):
    return ["--model", f"bge-large-zh={bert}", *CPU]


@pytest.fixture(scope="module")
def xlmr_flags(tmp_path_factory):
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))
    with zr.load_reranker("bge-reranker-large", path=folder, device="cpu", dtype="float32"):
        yield ["--path", str(folder), *CPU]


def corpus(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(name, count):
    return [{"id": f"{name}{number}", "text": f"{name}{number * 7919}"} for number in range(count)]


def embed(*arguments):
    return main(["embed", *map(str, arguments)])


def columns(path):
    """Return the rows of an output of any format, without vectors."""
    if path.suffix == ".parquet":
        return pq.read_table(path).drop_columns("embedding").to_pylist()
    lines = (path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.ids")).read_text(encoding="utf-8")
    return [
        {key: value for key, value in json.loads(line).items() if key != "embedding"} for line in lines.splitlines()
    ]


# --- ids and columns -----------------------------------------------------------------------------------------------

ROWS = [
    {"chunk_id": "c-9", "url": "http://x/9", "page": 1, "tags": ["茶"], "about": {}, "id": "other", "content": "绿茶"},
    {"chunk_id": "c-8", "url": None, "page": 2, "tags": [], "about": {"a": 1}, "id": "one", "content": "红茶"},
]  # fmt: skip


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet", "out.npy"])
@pytest.mark.parametrize("source", ["in.jsonl", "in.parquet", "in.csv"])
def test_the_callers_ids_and_columns_are_in_every_output(tmp_path, bert_flags, source, output):
    file, out = tmp_path / source, tmp_path / output
    if source == "in.jsonl":
        corpus(file, ROWS)
    elif source == "in.parquet":
        pq.write_table(pa.table({name: [row[name] for row in ROWS] for name in ROWS[0] if name != "about"}), file)
    else:
        file.write_text("chunk_id,url,id,content\nc-9,http://x/9,other,绿茶\nc-8,,one,红茶\n", encoding="utf-8")
    fields = ["--id-field", "chunk_id", "--text-field", "content"]
    assert embed(file, "-o", out, *fields, *bert_flags) == 0
    found = columns(out)
    assert [row["chunk_id"] for row in found] == ["c-9", "c-8"]
    assert [row["url"] for row in found] == ["http://x/9", "" if source == "in.csv" else None]
    if output != "out.jsonl":
        assert [(row["id"], row["input_id"]) for row in found] == [("c-9", "other"), ("c-8", "one")]
    if source != "in.csv":
        assert [(row["page"], row["tags"]) for row in found] == [(1, ["茶"]), (2, [])]
    assert embed(file, "-o", out, "--drop-columns", *fields, *bert_flags) == 0
    kept = {"id", "text"} if output != "out.npy" else {"id"}
    assert [(row["id"], set(row)) for row in columns(out)] == [("c-9", kept), ("c-8", kept)]


def test_columns_of_parquet_keep_their_types(tmp_path, bert_flags):
    import datetime
    import decimal

    table = pa.table({
        "id": pa.array([1, 2]), "text": ["a", "b"], "day": pa.array([datetime.date(2026, 1, 1), None]),
        "when": pa.array([1, 2], pa.timestamp("ms", "UTC")), "price": pa.array([decimal.Decimal("1.20"), None]),
        "small": pa.array([1, 2], pa.int8()), "raw": pa.array([b"\xff", b""]), "map": pa.array([{"a": [1]}, None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    assert embed(tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", *bert_flags) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    for name in ("day", "when", "price", "small", "raw", "map"):
        assert found.schema.field(name).type == table.schema.field(name).type
        assert found.column(name).to_pylist() == table.column(name).to_pylist()
    assert found.column("kind").to_pylist() == ["x", "y"]
    assert found.column("id").to_pylist() == ["1", "2"]
    assert embed(tmp_path / "in.parquet", "-o", tmp_path / "out.jsonl", *bert_flags) == 0
    assert columns(tmp_path / "out.jsonl")[0]["day"] == "2026-01-01"


def test_a_column_whose_type_changes_on_the_way_becomes_text(tmp_path, bert_flags):
    rows = [*numbered("a", LINES), {"id": "z", "text": "z", "n": "neu", "new": 1}]
    rows[0] |= {"n": 3, "m": 1, "o": {"k": "值"}}
    rows[1] |= {"n": [1.5], "m": 2.5}
    corpus(tmp_path / "in.jsonl", rows)
    assert embed(tmp_path / "in.jsonl", "-o", tmp_path / "out.parquet", *bert_flags) == 0
    found = columns(tmp_path / "out.parquet")
    assert [found[0][name] for name in ("n", "m", "o", "new")] == ["3", 1.0, '{"k": "值"}', None]
    assert [found[1]["n"], found[-1]["n"], found[-1]["new"], found[5]["o"]] == ["[1.5]", "neu", 1, None]


@pytest.mark.parametrize("output", ["out.parquet", "out.npy"])
def test_rows_without_an_id_are_said_before_they_are_computed(tmp_path, capsys, bert_flags, output):
    file = corpus(tmp_path / "in.jsonl", [{"chunk_id": "c-9", "url": "x", "text": "绿茶"}] * 3)
    assert embed(file, "-o", tmp_path / output, *bert_flags) == 0
    said = capsys.readouterr().err
    assert said.count("no id: ") == 1
    assert f"line 1 of {file} has no field 'id' or '_id', only 'chunk_id', 'url', 'text'" in said
    assert "--id-field NAME" in said
    assert columns(tmp_path / output)[0]["chunk_id"] == "c-9"  # and nothing is lost
    (tmp_path / "in.txt").write_text("茶\n", encoding="utf-8")
    assert embed(tmp_path / "in.txt", "-o", tmp_path / output, *bert_flags) == 0
    assert "no id" not in capsys.readouterr().err  # places are ids there


def test_a_row_without_the_id_that_was_asked_for_is_bad(tmp_path, capsys, bert_flags):
    file = corpus(tmp_path / "in.jsonl", [{"k": 1, "text": "a"}, {"id": 7, "text": "b"}, {"k": None, "text": "c"}])
    assert embed(file, "-o", tmp_path / "out.npy", "--id-field", "k", *bert_flags) == 2
    assert f"line 2 of {file}: no id in field 'k', expected one of 'id', 'text'" in capsys.readouterr().err
    assert embed(file, "-o", tmp_path / "out.npy", "--id-field", "k", "--on-error", "skip", *bert_flags) == 0
    assert f"line 3 of {file}: field 'k' is null, expected an id" in capsys.readouterr().err
    assert columns(tmp_path / "out.npy") == [{"id": "1", "k": 1}]


# --- what was computed is kept -------------------------------------------------------------------------------------


def kept(capsys):
    """Return how many rows were not computed again."""
    said = capsys.readouterr().err
    return int(said.rsplit("; ", 1)[1].split()[0]) if "were finished before" in said else 0


@pytest.mark.parametrize("remedy", ["mend", "skip"])
def test_both_remedies_of_a_broken_line_keep_what_was_computed(tmp_path, capsys, bert_flags, remedy):
    file, out = corpus(tmp_path / "in.jsonl", numbered("a", LINES)), tmp_path / "out.npy"
    with file.open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    assert embed(file, "-o", out, *bert_flags) == 2
    said = capsys.readouterr().err
    assert f"line {LINES + 1} of {file}: not valid JSON" in said
    assert "Mend it, or use --on-error skip" in said
    if remedy == "mend":
        file.write_text(
            file.read_text(encoding="utf-8").replace("{broken", '{"id": "x", "text": "好"}'), encoding="utf-8"
        )
    assert embed(file, "-o", out, *(["--on-error", "skip"] if remedy == "skip" else []), *bert_flags) == 0
    assert kept(capsys) > LINES / 4
    assert len(columns(out)) == len(np.load(out)) == LINES + (remedy == "mend")


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet", "out.npy"])
def test_a_corpus_grows_by_lines_and_files_and_only_what_is_new_is_computed(tmp_path, capsys, bert_flags, output):
    folder, out, whole = tmp_path / "in", tmp_path / output, tmp_path / f"whole-{output}"
    folder.mkdir()
    corpus(folder / "b.jsonl", numbered("b", LINES))
    assert embed(folder, "-o", out, *bert_flags) == 0
    assert kept(capsys) == 0
    growth = (
        lambda: corpus(folder / "b.jsonl", [*numbered("b", LINES), *numbered("c", 5)]),
        lambda: corpus(folder / "a.jsonl", numbered("a", 5)),  # in front
        lambda: corpus(folder / "b.jsonl", numbered("b", LINES)[7:]),  # and lines go
    )
    for grow in growth:
        grow()
        assert embed(folder, "-o", out, *bert_flags) == 0
        assert kept(capsys) > 0
        assert embed(folder, "-o", whole, "--restart", *bert_flags) == 0
        assert kept(capsys) == 0
        assert out.read_bytes() == whole.read_bytes()
        assert columns(out) == columns(whole)
    assert not list(tmp_path.glob("*.partial"))


def test_an_output_that_somebody_changed_is_computed_anew(tmp_path, capsys, bert_flags):
    file, out = corpus(tmp_path / "in.jsonl", numbered("a", 20)), tmp_path / "out.jsonl"
    assert embed(file, "-o", out, *bert_flags) == 0
    before = out.read_bytes()
    out.write_bytes(before.replace(b"a0", b"xx"))
    assert embed(file, "-o", out, *bert_flags) == 0
    assert kept(capsys) == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_windows_of_other_weights_are_not_taken_over(tmp_path, capsys, command):
    make = tiny_bert if command == "embed" else tiny_xlmr_reranker
    folder, other = make(tmp_path / "model"), make(tmp_path / "other", seed=1)
    model = "bge-base-zh" if command == "embed" else "bge-reranker-large"
    rows = [
        {**row, "query": row["text"], "documents": ["a", "b"]}
        for row in numbered("a", LINES if command == "embed" else 90)
    ]
    file, out = corpus(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with file.open("a") as stream:
        stream.write("{broken\n")
    arguments = [command, str(file), "-o", str(out), "--model", f"{model}={folder}", *CPU]
    assert main(arguments) == 2
    assert list(tmp_path.glob("out.jsonl.partial/*.part"))
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    file.write_text(file.read_text().replace("{broken\n", ""))
    assert main(arguments) == 2
    assert "it differs in weights and options. Use --restart" in capsys.readouterr().err
    assert main([*arguments, "--restart"]) == 0
    assert main([*arguments[:3], str(tmp_path / "whole.jsonl"), *arguments[4:]]) == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    shutil.copy(other / "config.json", folder / "config.json")
    assert main(arguments) == 0
    assert kept(capsys) > 0  # equal content is the same model, whatever its time


# --- what cannot be right is refused before any work ---------------------------------------------------------------


def test_all_inputs_are_looked_for_before_a_model_is_loaded(tmp_path, capsys):
    file = corpus(tmp_path / "a.jsonl", numbered("a", 3))
    nowhere = ["--model", f"bge-large-zh={tmp_path / 'no-weights'}"]
    pairs = corpus(tmp_path / "p.jsonl", [{"query": "a", "documents": ["b"]}])
    for arguments, said in [
        (["embed", file, tmp_path / "b.jsonl", "-o", tmp_path / "o.npy"], "b.jsonl is not a file"),
        (["embed", file, corpus(tmp_path / "t.csv", [{"a": 1}]), "-o", "-"], "t.csv has no column 'text'"),
        (["embed", file, "-o", tmp_path / "o.docx"], "expected .jsonl, .npy or .parquet"),
        (["embed", file, "-o", tmp_path / "no" / "o.npy"], "is not a folder"),
        (["embed", file, "-o", file], "would replace its own input"),
        (["embed", file, "-o", tmp_path / "o.npy", "--encoding", "nosuch"], "no encoding of text"),
        (["embed", file, "-o", tmp_path / "o.npy", "--workers", "2"], "--workers is for"),
        (["embed", file, "-o", tmp_path / "o.npy", "--part-rows", "2"], "--part-rows is for"),
        (["rerank", pairs, tmp_path / "b.jsonl", "-o", tmp_path / "o.jsonl"], "b.jsonl is not a file"),
        (["rerank", pairs, "-o", pairs], "would replace its own input"),
        (["rerank", "--run", file, "--queries", file, "--corpus", tmp_path / "c.jsonl", "-o", "-"], "c.jsonl is not a"),
    ]:
        model = nowhere if arguments[0] == "embed" else ["--path", str(tmp_path / "no-weights")]
        assert main([*map(str, arguments), *model]) == 2
        assert said in capsys.readouterr().err
    assert main(["embed", str(file), "-o", str(tmp_path / "o.npy"), *nowhere]) == 2  # a failed start claims nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "p.jsonl", "t.csv"]


def test_an_output_in_its_input_folder_is_no_input(tmp_path, bert_flags):
    corpus(tmp_path / "a.jsonl", numbered("a", 3))
    for _ in range(2):
        assert embed(tmp_path, "-o", tmp_path / "out.jsonl", *bert_flags) == 0
        assert len(columns(tmp_path / "out.jsonl")) == 3


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.parquet"])
def test_a_wrong_column_is_refused_also_with_skip(tmp_path, capsys, bert_flags, name):
    rows = numbered("a", 3)
    if name == "in.jsonl":
        corpus(tmp_path / name, rows)
    elif name == "in.csv":
        (tmp_path / name).write_text("id,text\n1,a\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    arguments = [tmp_path / name, "-o", tmp_path / "out.npy", "--text-field", "content", "--on-error", "skip"]
    assert embed(*arguments, *bert_flags) == 2
    assert "'content'" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_text_that_the_model_refuses_is_named_by_its_line_and_skipped(tmp_path, capsys, bert_flags):
    rows = numbered("a", 40)
    rows[17]["text"] = "天气很好" * 200
    file, out = corpus(tmp_path / "in.jsonl", rows), tmp_path / "out.npy"
    arguments = [file, "-o", out, "--overflow", "error", *bert_flags]
    assert embed(*arguments) == 2
    said = capsys.readouterr().err
    assert f"line 18 of {file}: " in said
    assert "texts[" not in said
    for _ in range(2):  # what an earlier run has skipped is not forgotten
        assert embed(*arguments, "--on-error", "skip") == 0
        assert "1 lines were skipped" in capsys.readouterr().err
        assert len(np.load(out)) == 39


def test_a_query_that_has_no_score_is_named_by_its_line_and_skipped(tmp_path, capsys, xlmr_flags):
    rows = [{"query": "茶", "documents": ["绿茶", "红茶"]}, {"query": " ", "documents": ["a"]}]
    rows += [{"query": "茶", "documents": ["绿茶", "长" * 3000]}]
    file, out = corpus(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    arguments = ["rerank", str(file), "-o", str(out), "--overflow", "error", *xlmr_flags]
    assert main(arguments) == 2
    assert f"line 2 of {file}: " in capsys.readouterr().err
    for _ in range(2):
        assert main([*arguments, "--on-error", "skip"]) == 0
        said = capsys.readouterr().err
        assert "2 lines were skipped" in said
        assert len(out.read_text(encoding="utf-8").splitlines()) == 1
    out.unlink()
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert f"line 3 of {file}: documents[1] " in capsys.readouterr().err


# --- other files ---------------------------------------------------------------------------------------------------


def test_what_excel_writes_in_china_is_embedded(tmp_path, capsys, bert_flags):
    file, out = tmp_path / "问答.csv", tmp_path / "out.jsonl"
    file.write_bytes("编号,正文\r\n1,绿茶用八十度的水\r\n2,红茶\r\n".encode("gbk"))
    arguments = [file, "-o", out, "--text-field", "正文", "--id-field", "编号", *bert_flags]
    for more in ([], ["--on-error", "skip"]):
        assert embed(*arguments, *more) == 2
        assert "looks like GB18030: use --encoding gb18030" in capsys.readouterr().err
    for encoding in ("gb18030", "GBK"):
        assert embed(*arguments, "--encoding", encoding) == 0
        assert [row["正文"] for row in columns(out)] == ["绿茶用八十度的水", "红茶"]


def test_rerank_reads_what_embed_reads(tmp_path, xlmr_flags):
    rows = [{"query": "茶", "documents": ["绿茶", {"id": "b", "text": "红茶"}], "n": 1}]
    plain, packed, table = corpus(tmp_path / "p.jsonl", rows), tmp_path / "g.jsonl.gz", tmp_path / "t.parquet"
    packed.write_bytes(gzip.compress(json.dumps(rows[0], ensure_ascii=False).encode("gb18030")))
    pq.write_table(pa.Table.from_pylist([{**rows[0], "documents": ["绿茶", "红茶"]}]), table)
    found = []
    for file, more in ((plain, []), (packed, ["--encoding", "gb18030"]), (table, [])):
        assert main(["rerank", str(file), "-o", str(tmp_path / "out.jsonl"), *more, *xlmr_flags]) == 0
        row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
        found.append([(document["text"], round(document["score"], 5)) for document in row["documents"]])
    assert found[0] == found[1] == found[2]


# --- without a terminal --------------------------------------------------------------------------------------------


def test_without_a_terminal_a_line_comes_now_and_then_and_one_at_the_end(tmp_path, capsys, monkeypatch, bert_flags):
    monkeypatch.setattr(console, "_EVERY", 0.01)
    with console.Progress("text") as shown:
        shown.advance(3)
        while not shown.lines:
            time.sleep(0.001)
    assert "zh-retrieval: 3 texts, " in capsys.readouterr().err
    monkeypatch.setattr(console, "_EVERY", 60.0)
    file = corpus(tmp_path / "in.jsonl", numbered("a", 3))
    assert embed(file, "-o", tmp_path / "out.npy", *bert_flags) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"zh-retrieval: 3 texts in {tmp_path / 'out.npy'}: ")
    monkeypatch.setattr(sys, "stderr", None)
    assert embed(file, "-o", tmp_path / "out.npy", "--restart", *bert_flags) == 0


def test_vectors_are_those_of_the_library(tmp_path, bert, bert_flags):
    rows = numbered("a", LINES)
    assert embed(corpus(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out.npy", *bert_flags) == 0
    with zr.load_encoder("bge-large-zh", path=bert, device="cpu", dtype="float32") as encoder:
        np.testing.assert_allclose(
            np.load(tmp_path / "out.npy"), encoder.encode_documents([row["text"] for row in rows]), atol=1e-6
        )
