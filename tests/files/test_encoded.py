"""Sparse vectors in files: beside dense ones or alone, exactly as they were, window by window."""

import json

import numpy as np
import pytest

from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.records import Record, text_form
from zh_retrieval.files.writing.encoded import Empty, Encoded
from zh_retrieval.files.writing.vectors import format_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
FORM = text_form()


def sparse(*rows):
    return [Empty(np.array(indices, np.uint32), np.array(values, np.float32)) for indices, values in rows]


def records(*ids, **fields):
    return [Record({"id": id, "text": f"文{id}", **fields}, f"文{id}", f"line {id}", id) for id in ids]


WINDOWS = [
    (records("a", "b", sparse_indices=["stale"]), sparse(([7, 2**32 - 1], [1 / 3, 2e-7]), ([], []))),
    (records("c"), sparse(([0], [1.0]))),
]


def written(tmp_path, name, dense):
    """Return an output of both windows."""
    form = format_of(str(tmp_path / name), FORM)
    parts, rng = [], np.random.default_rng(0)
    for number, (rows, vectors) in enumerate(WINDOWS):
        encoded = Encoded(rng.normal(size=(len(rows), 3)).astype(np.float32) if dense else None, vectors)
        parts.append(tmp_path / f"{number}.part")
        form.write(parts[-1], rows, encoded)
    form.join(parts, [tmp_path / name], encoded.none())
    return tmp_path / name


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_indices_and_values_come_back_exactly(tmp_path, suffix, dense):
    output = written(tmp_path, f"out{suffix}", dense)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    else:
        table = pq.read_table(output)
        assert table.schema.field("sparse_indices").type.value_type == pa.uint32()
        assert table.schema.field("sparse_values").type.value_type == pa.float32()
        rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert all(("embedding" in row) == dense for row in rows)
    for row, vector in zip(rows, [vector for _, vectors in WINDOWS for vector in vectors], strict=True):
        assert row["sparse_indices"] == vector.indices.tolist()  # those of the input gave way
        np.testing.assert_array_equal(np.array(row["sparse_values"], np.float32), vector.values)


def test_a_window_is_taken_out_of_parquet_as_it_was(tmp_path):
    form = format_of(str(tmp_path / "out.parquet"), FORM)
    parts = []
    for number, (rows, vectors) in enumerate(WINDOWS):
        parts.append(tmp_path / f"{number}.part")
        form.write(parts[-1], rows, Encoded(None, vectors))
    form.join(parts, [tmp_path / "out.parquet"], Encoded(None, []))
    for part, place in zip(parts, form.places(parts), strict=True):
        form.extract([tmp_path / "out.parquet"], place, tmp_path / "again")
        assert pq.read_table(tmp_path / "again").equals(pq.read_table(part))


def test_dense_vectors_of_the_input_stay_beside_sparse_ones(tmp_path):
    form = format_of(str(tmp_path / "out.jsonl"), FORM)
    form.write(tmp_path / "part", records("a", embedding=[0.5]), Encoded(None, sparse(([1], [2.0]))))
    row = json.loads((tmp_path / "part").read_text(encoding="utf-8"))
    assert (row["embedding"], row["sparse_indices"], row["sparse_values"]) == ([0.5], [1], [2.0])


def test_an_array_holds_no_sparse_vectors(tmp_path):
    form = format_of(str(tmp_path / "out.npy"), FORM)
    with pytest.raises(ConfigError, match="dense vectors alone"):
        form.write(tmp_path / "part", records("a"), Encoded(None, sparse(([1], [2.0]))))


def test_rows_without_a_vector_are_null_in_both(tmp_path):
    found = Encoded(np.ones((2, 3), np.float32), sparse(([1], [2.0]), ([3], [4.0]))).spread([0, 2], 3)
    columns = found.columns(np.array([False, True, False]))
    assert columns["embedding"].to_pylist() == [[1, 1, 1], None, [1, 1, 1]]
    assert columns["sparse_indices"].to_pylist() == [[1], None, [3]]
    assert columns["sparse_values"].to_pylist() == [[2.0], None, [4.0]]
