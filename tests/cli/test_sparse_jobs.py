"""`embed --sparse`: beside dense vectors or alone, exactly what the library gives, resumed and refused as dense is."""

import json

import numpy as np
import pytest

import zh_retrieval as zr
from tests.cli.test_jobs import corpus, kept, numbered
from tests.tiny_models import tiny_xlmr
from zh_retrieval.cli.commands import embed as embedding
from zh_retrieval.cli.main import main
from zh_retrieval.distributed import encoding

pq = pytest.importorskip("pyarrow.parquet")
LINES = 300
CPU = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(embedding, "_WINDOW", 32)


@pytest.fixture
def file(tmp_path):
    return corpus(tmp_path / "in.jsonl", [{**row, "page": 1} for row in numbered("绿茶第", LINES)])


def embed(*arguments):
    return main(["embed", *map(str, arguments)])


def rows(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def same(found, expected):
    for row, vector in zip(found, expected, strict=True):
        assert row["sparse_indices"] == vector.indices.tolist()
        np.testing.assert_array_equal(np.array(row["sparse_values"], np.float32), vector.values)


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_sparse_vectors_alone_are_those_of_the_library(tmp_path, file, output):
    assert embed(file, "-o", tmp_path / output, "--sparse", "--no-dense") == 0
    found = rows(tmp_path / output)
    with zr.load_sparse_encoder("bm25-zh") as encoder:
        same(found, encoder.encode_documents([row["text"] for row in found]))
    assert set(found[0]) == {"id", "text", "page", "sparse_indices", "sparse_values"}


def test_both_sides_stand_beside_each_other(tmp_path, file):
    assert embed(file, "-o", tmp_path / "out.parquet", "--sparse", "bm25-zh,average_length=9,b=0.5", *CPU) == 0
    found = rows(tmp_path / "out.parquet")
    texts = [row["text"] for row in found]
    with zr.load_sparse_encoder("bm25-zh", average_length=9.0, b=0.5) as encoder:
        same(found, encoder.encode_documents(texts))
    with zr.load_encoder("e5-small-zh", device="cpu", dtype="float32") as encoder:
        np.testing.assert_allclose([row["embedding"] for row in found], encoder.encode_documents(texts), atol=1e-6)


def test_queries_are_encoded_as_queries(tmp_path, file, capsys):
    assert embed(file, "-o", "-", "--sparse", "--no-dense", "--as", "query") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with zr.load_sparse_encoder("bm25-zh") as encoder:
        same(found, encoder.encode_queries([row["text"] for row in found]))


def test_what_was_computed_is_kept_and_other_settings_are_another_job(tmp_path, file, capsys, monkeypatch):
    out = tmp_path / "out.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + "{broken\n", encoding="utf-8")
    arguments = [file, "-o", out, "--no-dense"]
    assert embed(*arguments, "--sparse") == 2
    file.write_text(whole, encoding="utf-8")
    assert embed(*arguments, "--sparse", "bm25-zh,average_length=7") == 2
    assert "it differs in sparse weights and options" in capsys.readouterr().err
    real, asked = encoding.Encoders.encode, []
    monkeypatch.setattr(encoding.Encoders, "encode", lambda self, texts: asked.extend(texts) or real(self, texts))
    assert embed(*arguments, "--sparse") == 0
    assert kept(capsys) > 0
    assert 0 < len(asked) < LINES
    assert len(rows(out)) == LINES
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "new", "text": "红茶"}\n')
    asked.clear()
    assert embed(*arguments, "--sparse") == 0  # a finished output grows
    assert "红茶" in asked
    assert len(asked) < LINES
    assert rows(out)[-1]["id"] == "new"


def test_a_dense_job_is_another_than_one_with_a_sparse_side(tmp_path, file, capsys):
    with file.open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    assert embed(file, "-o", tmp_path / "out.jsonl", *CPU) == 2
    assert embed(file, "-o", tmp_path / "out.jsonl", "--sparse", *CPU) == 2
    assert "it differs in sparse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no-dense"], "leaves no vectors"),
        (["--sparse", "bm25"], "bm25-zh"),
        (["--sparse", "e5-small-zh"], "e5-small-zh"),
        (["--sparse", "bm25-zh,k=1"], "k"),
        (["--sparse", "bm25-zh,k1=much"], "k1"),
        (["--sparse", "bm25-zh,b=2"], "b"),
        (["--sparse", "=x"], "is no model"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(tmp_path, file, capsys, flags, said):
    assert embed(file, "-o", tmp_path / "out.jsonl", *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_an_array_file_has_no_room_for_sparse_vectors(tmp_path, file, capsys):
    assert embed(file, "-o", tmp_path / "out.npy", "--sparse") == 2
    assert ".parquet or .jsonl" in capsys.readouterr().err


def test_a_bad_text_is_skipped_by_both_sides(tmp_path, capsys):
    file = corpus(
        tmp_path / "in.jsonl", [{"id": "a", "text": "绿茶"}, {"id": "b", "text": None}, {"id": "c", "text": "茶"}]
    )
    assert embed(file, "-o", tmp_path / "out.jsonl", "--sparse", "--on-error", "skip", *CPU) == 0
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["a", "c"]


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    torch = pytest.importorskip("torch")
    folder = tiny_xlmr(tmp_path_factory.mktemp("m3"), positions=8194)
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    weight = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": weight, "bias": torch.tensor([0.1])}, folder / "sparse_linear.pt")
    return folder


def test_one_model_gives_both_sides_of_one_pass(tmp_path, m3, monkeypatch):
    file = corpus(tmp_path / "in.jsonl", numbered("绿茶第", 40))
    options = {"path": str(m3), "device": "cpu", "dtype": "float32"}
    with zr.load_encoder("bge-m3", **options) as dense, zr.load_sparse_encoder("bge-m3", **options) as sparse:
        texts = [row["text"] for row in numbered("绿茶第", 40)]
        vectors, expected = dense.encode_documents(texts), sparse.encode_documents(texts)
        monkeypatch.setattr(type(dense), "encode_documents", None)
        monkeypatch.setattr(type(sparse), "encode_documents", None)
        flags = ["--model", f"bge-m3={m3}", "--sparse", "bge-m3", *CPU]
        assert embed(file, "-o", tmp_path / "out.jsonl", *flags) == 0
    found = rows(tmp_path / "out.jsonl")
    np.testing.assert_allclose([row["embedding"] for row in found], vectors, atol=1e-6)
    for row, vector in zip(found, expected, strict=True):
        assert row["sparse_indices"] == vector.indices.tolist()
        np.testing.assert_allclose(row["sparse_values"], vector.values, atol=1e-6)
