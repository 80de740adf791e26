"""Parts into FAISS and Qdrant, interrupted at each of them."""

import json

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval.distributed import build_faiss, read_parts, upload_qdrant
from zh_retrieval.distributed.job.folder import PartFolder

pa = pytest.importorskip("pyarrow")
PARTS, ROWS, SIZE = 5, 7, 8


@pytest.fixture
def folder(tmp_path):
    parts = PartFolder(str(tmp_path / "parts"))
    parts.claim({}, restart=False)
    rng = np.random.default_rng(0)
    for number in range(PARTS):
        rows = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = [None if number == 2 and row == 3 else rows[row].tolist() for row in range(ROWS)]
        table = {
            "id": [f"文{number}-{row}" for row in range(ROWS)],
            "text": [f"t{row}" for row in range(ROWS)],
            "embedding": pa.array(vectors, type=pa.list_(pa.float32(), SIZE)),
        }
        parts.write(f"part-{number}.parquet", pa.table(table))
    parts.release(finished=True)
    return str(tmp_path / "parts")


class CutError(Exception):
    pass


def interrupted_after(monkeypatch, count):
    """Let reading stop after so many parts."""

    def some(folder):
        for number, part in enumerate(read_parts(folder)):
            if number == count:
                raise CutError
            yield part

    monkeypatch.setattr("zh_retrieval.distributed.indexing.read_parts", some)


def every_row(folder):
    return {id: vector for part in read_parts(folder) for id, vector in zip(part.ids, part.vectors, strict=True)}


def test_rows_without_a_vector_are_left_out(folder):
    rows = every_row(folder)
    assert len(rows) == PARTS * ROWS - 1
    assert "文2-3" not in rows
    for vector in rows.values():
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-6)


@pytest.mark.parametrize("save_every", [1, 2, 64])
def test_an_interrupted_faiss_index_goes_on_and_finds_each_row(folder, tmp_path, monkeypatch, save_every):
    faiss = pytest.importorskip("faiss")
    index = tmp_path / "index"
    for count in range(1, PARTS):
        interrupted_after(monkeypatch, count)
        with pytest.raises(CutError):
            build_faiss(folder, str(index), save_every=save_every)
    monkeypatch.undo()
    assert build_faiss(folder, str(index), save_every=save_every) == PARTS * ROWS - 1
    assert build_faiss(folder, str(index), save_every=save_every) == PARTS * ROWS - 1
    ids = [json.loads(line) for line in (index / "ids.txt").read_text(encoding="utf-8").splitlines()]
    (file,) = index.glob("*.faiss")
    loaded = faiss.read_index(str(file))
    rows = every_row(folder)
    scores, found = loaded.search(np.array(list(rows.values())), 1)
    assert [ids[place] for place in found[:, 0]] == list(rows)
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
    with pytest.raises(zr.ConfigError, match="of kind 'Flat'"):
        build_faiss(folder, str(index), factory="HNSW8")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_interrupted_upload_to_qdrant_goes_on_and_finds_each_row(folder, tmp_path, monkeypatch):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    real, calls = client.upsert, []

    def cut(*arguments, **options):
        calls.append(1)
        if len(calls) in (2, 6):
            raise CutError
        return real(*arguments, **options)

    monkeypatch.setattr(client, "upsert", cut)
    for _ in range(2):
        with pytest.raises(CutError):
            upload_qdrant(folder, client, "texts", batch_size=4)
    upload_qdrant(folder, client, "texts", batch_size=4)
    assert client.count("texts").count == PARTS * ROWS - 1
    assert upload_qdrant(folder, client, "texts", batch_size=4) == 0
    for id, vector in every_row(folder).items():
        (hit,) = client.query_points("texts", query=vector.tolist(), limit=1).points
        assert hit.payload["id"] == id
    client.close()


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(zr.ConfigError, match="holds no parts"):
        list(read_parts(str(tmp_path)))
