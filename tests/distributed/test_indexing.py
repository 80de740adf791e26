"""Parts into FAISS and Qdrant, interrupted at each of them."""

import json

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval.distributed import Columns, build_faiss, read_parts, upload_qdrant
from zh_retrieval.distributed.job.folder import PartFolder

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
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
    """Let reading stop after so many parts of a folder."""
    read = PartFolder.read

    def some(self, name):
        if sorted(self.parts()).index(name) == count:
            raise CutError
        return read(self, name)

    monkeypatch.setattr(PartFolder, "read", some)


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


# --- which vectors they are ----------------------------------------------------------------------------------------


def written(path, *parts, job=None, finished=True):
    """Write a folder of a job (none: of another program) with parts of (name, ids), each vector of its own."""
    folder = PartFolder(str(path))
    if job is not None:
        folder.claim({"model": job}, restart=True)
        folder.agree({"fingerprint": job, "probe": [1.0]})
    path.mkdir(exist_ok=True)
    for name, ids in parts:
        rows = np.stack([np.random.default_rng(abs(hash((job, id))) % 2**32).normal(size=SIZE) for id in ids])
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        columns = {"id": ids, "text": [f"{job} {id}" for id in ids], "embedding": fixed(rows), "url": ["u"] * len(ids)}
        folder.write(name, pa.table(columns))
    folder.release(finished=finished)
    return str(path)


def fixed(rows):
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


@pytest.fixture
def client():
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    yield client
    client.close()


def points(client):
    return {point.payload["id"]: point.payload for point in client.scroll("p", limit=1000)[0]}


def test_a_part_whose_last_id_is_elsewhere_too_is_sent(tmp_path, client):
    folder = written(tmp_path / "parts", ("a.parquet", [*"abcde"]), ("b.parquet", [*"fghc"]))
    assert upload_qdrant(folder, client, "p") == 9
    assert points(client).keys() == {*"abcdefgh"}
    assert upload_qdrant(folder, client, "p") == 0


def test_a_collection_of_other_vectors_is_refused_and_made_anew_on_request(tmp_path, client):
    models = pytest.importorskip("qdrant_client.models")
    folder = tmp_path / "parts"
    assert upload_qdrant(written(folder, ("part-1.parquet", [*"abc"]), job="old"), client, "p") == 3
    written(folder, ("part-1.parquet", [*"abc"]), job="new")
    with pytest.raises(zr.ConfigError, match="another model"):
        upload_qdrant(str(folder), client, "p")
    assert upload_qdrant(str(folder), client, "p", restart=True) == 3
    assert points(client)["a"] == {"id": "a", "text": "new a", "url": "u", "_part": "part-1.parquet"}
    client.delete_collection("p")
    assert upload_qdrant(str(folder), client, "p") == 3, "what is gone is not believed to be there"
    client.delete_collection("p")
    client.create_collection("p", vectors_config=models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    assert upload_qdrant(str(folder), client, "p") == 3, "nor what somebody emptied"


def test_points_of_rows_that_are_gone_are_deleted(tmp_path, client):
    folder = tmp_path / "parts"
    upload_qdrant(written(folder, ("part-1.parquet", [*"abc"]), ("part-2.parquet", [*"de"]), job="m"), client, "p")
    (folder / "part-1.parquet").unlink()
    written_again = PartFolder(str(folder))
    written_again.write("part-3.parquet", PartFolder(str(folder)).read("part-2.parquet").slice(0, 1))
    upload_qdrant(str(folder), client, "p")
    assert points(client).keys() == {*"de"}


def test_an_index_of_other_vectors_is_refused_and_made_anew_on_request(tmp_path):
    faiss = pytest.importorskip("faiss")
    folder, index = tmp_path / "parts", tmp_path / "index"
    build_faiss(written(folder, ("part-1.parquet", [*"abc"]), job="old"), str(index))
    for parts, job in (("part-1.parquet", "new"), ("part-2.parquet", "old")):
        written(folder, (parts, [*"abc"]), job=job)
        with pytest.raises(zr.ConfigError, match="holds other vectors"):
            build_faiss(str(folder), str(index))
    assert build_faiss(str(folder), str(index), restart=True) == 3
    (file,) = index.glob("*.faiss")
    (part,) = read_parts(str(folder))
    np.testing.assert_array_equal(faiss.read_index(str(file)).reconstruct_n(0, 3), part.vectors)
    assert (index / "ids.txt").read_text() == '"a"\n"b"\n"c"\n'


def test_an_unfinished_job_is_said(tmp_path, caplog):
    folder = written(tmp_path / "parts", ("part-1.parquet", ["a"]), job="m", finished=False)
    assert len(list(read_parts(folder))) == 1
    assert "has not ended: 1 parts are there" in caplog.text
    caplog.clear()
    list(read_parts(written(tmp_path / "other", ("part-1.parquet", ["a"]), job="m")))
    assert caplog.text == ""


def test_what_ray_data_writes_is_read(tmp_path):
    rows = np.eye(SIZE, dtype=np.float32)[:3]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
    lists = pa.array(rows.tolist(), type=pa.list_(pa.float64()))
    for number, vectors in enumerate((fixed(rows), lists, tensors)):
        folder = tmp_path / str(number)
        folder.mkdir()
        table = pa.table({"key": [1, 2, 3], "body": [*"abc"], "v": vectors, "url": [*"xyz"]})
        pa.parquet.write_table(table, folder / "f00d_000000_000000.parquet")
        (part,) = read_parts(str(folder), columns=Columns("key", "body", "v"))
        assert (part.ids, part.texts) == (["1", "2", "3"], [*"abc"])
        assert part.vectors.dtype == np.float32
        np.testing.assert_array_equal(part.vectors, rows)
        assert part.others.to_pylist() == [{"url": "x"}, {"url": "y"}, {"url": "z"}]
        with pytest.raises(zr.ConfigError, match="no column 'id'"):
            list(read_parts(str(folder)))


def test_an_index_learns_from_all_parts_however_short_the_first_one_is(tmp_path):
    pytest.importorskip("faiss")
    many = [(f"part-{number}.parquet", [f"{number}-{row}" for row in range(40)]) for number in range(1, 4)]
    folder = written(tmp_path / "parts", ("part-0.parquet", ["only"]), *many)
    assert build_faiss(folder, str(tmp_path / "index"), factory="IVF8,Flat") == 121
    with pytest.raises(zr.ConfigError, match="cannot learn"):
        build_faiss(folder, str(tmp_path / "other"), factory="IVF8,Flat", train_rows=4)
