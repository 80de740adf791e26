"""Sparse vectors of Ray's batches, of workers and of parts, and into Qdrant beside the dense ones."""

import re
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval import distributed
from zh_retrieval.distributed import EmbedDocuments, build_faiss, read_parts, upload_qdrant
from zh_retrieval.distributed.encoding import Encoding
from zh_retrieval.distributed.job.agreement import check_alike, how_computed
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.sparse.fusion import fuse
from zh_retrieval.sparse.index import BM25Index

pa = pytest.importorskip("pyarrow")
qdrant = pytest.importorskip("qdrant_client")
OPTIONS = {"dtype": "float32", "device": "cpu", "threads": 1}
TEXTS = ["绿茶用八十度的水", "红茶用沸水", "Kubernetes 的两种探针", "为什么需要重排序", "绿茶怎么存放", ""]
IDS = [f"文{number}" for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def dense():
    with zr.load_encoder("e5-small-zh", **OPTIONS) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def sparse():
    with zr.load_sparse_encoder("bm25-zh") as encoder:
        yield encoder


@pytest.fixture
def client():
    found = qdrant.QdrantClient(":memory:")
    yield found
    found.close()


def same(table, vectors):
    for name, side in (("sparse_indices", "indices"), ("sparse_values", "values")):
        assert table.column(name).to_pylist() == [getattr(vector, side).tolist() for vector in vectors]


def test_batches_get_sparse_vectors_beside_dense_ones_or_alone(dense, sparse):
    table = pa.table({"text": TEXTS[:3]})
    both = EmbedDocuments("e5-small-zh", sparse="bm25-zh", **OPTIONS)(table)
    same(both, sparse.encode_documents(TEXTS[:3]))
    np.testing.assert_allclose(both.column("embedding").to_pylist(), dense.encode_documents(TEXTS[:3]), atol=1e-6)
    alone = EmbedDocuments(None, sparse="bm25-zh", sparse_options={"average_length": 5.0})
    found = alone(table)
    assert found.column_names == ["text", "sparse_indices", "sparse_values"]
    same(found, zr.load_sparse_encoder("bm25-zh", average_length=5.0).encode_documents(TEXTS[:3]))
    assert alone(table.slice(0, 0)).column("sparse_indices").to_pylist() == []


def test_a_bad_row_is_null_on_both_sides():
    mapped = EmbedDocuments("e5-small-zh", sparse="bm25-zh", on_error="null", **OPTIONS)
    found = mapped(pa.table({"text": ["绿茶", None]}))
    for name in ("embedding", "sparse_indices", "sparse_values"):
        assert [value is None for value in found.column(name).to_pylist()] == [False, True]


@pytest.mark.parametrize(
    ("model", "given", "error"),
    [
        (None, {}, zr.ConfigError),
        ("e5-small-zh", {"sparse": "bm25"}, zr.UnknownModelError),
        ("e5-small-zh", {"sparse": "bge-reranker-large"}, zr.WrongTaskError),
        (None, {"sparse": "bm25-zh", "sparse_options": {"b": 2}}, zr.ConfigError),
    ],
)
def test_what_makes_no_sense_is_refused_where_the_job_is_made(model, given, error):
    with pytest.raises(error):
        EmbedDocuments(model, **given)


def test_workers_of_other_settings_are_refused():
    made = [how_computed(Encoding(None, {}, "bm25-zh", given).open()) for given in ({}, {}, {"average_length": 9.0})]
    check_alike(*made[:2])
    with pytest.raises(zr.InputError):
        check_alike(made[0], made[2])


# --- parts ---------------------------------------------------------------------------------------------------------


def written(folder, *, vectors=None, sparse=None, name=None):
    """Write a folder of two parts, of the texts and what vectors there are."""
    parts = PartFolder(str(folder))
    parts.claim({"sparse": {"model": name}} if name else {}, restart=False)
    for number in range(2):
        rows = slice(3 * number, 3 * number + 3)
        table = {"id": IDS[rows], "text": TEXTS[rows]}
        if vectors is not None:
            kind = pa.list_(pa.float32(), vectors.shape[1])
            table["embedding"] = pa.array(vectors[rows].tolist(), type=kind)
        if sparse is not None:
            table["sparse_indices"] = pa.array([v.indices.tolist() for v in sparse[rows]], pa.list_(pa.uint32()))
            table["sparse_values"] = pa.array([v.values.tolist() for v in sparse[rows]], pa.list_(pa.float32()))
        parts.write(f"part-{number}.parquet", pa.table(table))
    parts.release(finished=True)
    return str(folder)


def test_parts_give_their_sparse_vectors_back(tmp_path, dense, sparse):
    vectors = sparse.encode_documents(TEXTS)
    found = list(read_parts(written(tmp_path / "a", vectors=dense.encode_documents(TEXTS), sparse=vectors)))
    rows = [row for part in found for row in part.sparse]
    for (indices, values), vector in zip(rows, vectors, strict=True):
        np.testing.assert_array_equal(indices, vector.indices)
        np.testing.assert_array_equal(values, vector.values)
    assert found[0].others.column_names == []
    alone = written(tmp_path / "b", sparse=vectors)
    assert [part.vectors.shape for part in read_parts(alone)] == [(3, 0), (3, 0)]
    with pytest.raises(zr.ConfigError, match="no dense vectors"):
        build_faiss(alone, str(tmp_path / "index"))


# --- Qdrant --------------------------------------------------------------------------------------------------------


def page_blocks():
    page = Path(distributed.__file__).with_name("README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.S)


@pytest.mark.parametrize("own", [True, False])
def test_the_pages_query_ranks_as_the_core_does(tmp_path, client, dense, sparse, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    vectors = dense.encode_documents(TEXTS)
    held = sparse.encode_documents(TEXTS) if own else None
    written(tmp_path / "vectors", vectors=vectors, sparse=held, name="bm25-zh" if own else None)
    (code,) = [block for block in page_blocks() if "def search" in block]
    monkeypatch.setattr(qdrant, "QdrantClient", lambda _: client)
    loaded = {"load_encoder": dense, "load_sparse_encoder": sparse}
    for name in loaded:
        code = code.replace(f"zr.{name}(", f"_{name}(")
    names = {f"_{name}": lambda _, model=model: model for name, model in loaded.items()}
    exec(compile(code, "README.md", "exec"), names)
    index = BM25Index(TEXTS, ids=IDS)
    for question in ("绿茶的水温", "探针", "xyz"):
        scores = vectors @ dense.encode_queries([question])[0]
        order = np.argsort(-scores)
        expected = fuse([(IDS[place], float(scores[place])) for place in order], index.search(question, 100))
        found = names["search"](question, k=3)
        assert [id for id, _ in found] == [hit.id for hit in expected[:3]]


def test_a_collection_of_another_sparse_side_is_refused_and_made_anew_on_request(tmp_path, client, dense):
    folder = written(tmp_path / "a", vectors=dense.encode_documents(TEXTS))
    assert upload_qdrant(folder, client, "c") == 6
    for _ in range(2):
        with pytest.raises(zr.ConfigError, match="restart=True"):
            upload_qdrant(folder, client, "c", sparse="bm25-zh")
    assert upload_qdrant(folder, client, "c", sparse="bm25-zh", restart=True) == 6
    assert upload_qdrant(folder, client, "c", sparse="bm25-zh") == 0
    with zr.load_sparse_encoder("bm25-zh", average_length=7.0) as encoder, pytest.raises(zr.ConfigError):
        upload_qdrant(folder, client, "c", sparse=encoder)


def test_the_store_weights_terms_by_rarity_where_the_model_does_not(tmp_path, client, sparse):
    folder = written(tmp_path / "a", sparse=sparse.encode_documents(TEXTS), name="bm25-zh")
    upload_qdrant(folder, client, "c", sparse="bm25-zh")
    config = client.get_collection("c").config.params
    assert config.sparse_vectors["sparse"].modifier == "idf"
    assert not config.vectors
    with pytest.raises(zr.ConfigError, match="bm25-zh"):
        upload_qdrant(folder, client, "d", sparse="bge-m3")
    with pytest.raises(zr.ConfigError, match="sparse="):
        upload_qdrant(folder, client, "e")
    with pytest.raises(zr.UnknownModelError):
        upload_qdrant(folder, client, "f", sparse="bm25-de")
