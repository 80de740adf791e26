"""What needs no cluster: ranges, the folder of parts, how many workers, and what a worker makes of its rows."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zh_retrieval as zr
from zh_retrieval.distributed import EmbedDocuments, ScorePairs
from zh_retrieval.distributed.job import filesystem
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import find_files, plan
from zh_retrieval.distributed.job.reading import read
from zh_retrieval.distributed.job.worker import RangeWorker, Work, check_alike
from zh_retrieval.distributed.mapping import each
from zh_retrieval.distributed.resources import Node, Workers, connected, plan_workers
from zh_retrieval.files.records import Reader, text_parser

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
PARSE = text_parser("text", "title")


def rows_of(path, size, on=PARSE):
    (file,) = find_files([str(path)])
    return [row for part in plan(file, size) for row in read(part, on, ("text", "title"))]


# --- ranges --------------------------------------------------------------------------------------------------------


@FUZZ
@given(
    st.lists(st.sampled_from(["", " ", "茶", '{"text": "a"}', '{"id": 7, "text": "b", "title": "c"}', "{", "x" * 9])),
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1),
    st.integers(1, 5),
    st.sampled_from([".jsonl", ".txt", ".md"]),
    st.booleans(),
)
def test_ranges_hold_what_the_local_command_reads(tmp_path, lines, endings, size, suffix, last):
    file = tmp_path / f"in{suffix}"
    content = "".join(line + endings[number % len(endings)] for number, line in enumerate(lines))
    file.write_bytes(b"\xef\xbb\xbf" + content.encode() + (b"y" if last else b""))
    local = list(Reader(PARSE, skip=True, say=lambda _: None).read([str(file)]))
    good = [row for row in rows_of(file, size) if row.error is None]
    assert [(row.id, row.text) for row in good] == [(record.id, record.text) for record in local]


def test_lines_are_cut_where_chunks_of_the_file_end(tmp_path, monkeypatch):
    monkeypatch.setattr("zh_retrieval.distributed.job.planning._CHUNK", 3)
    file = tmp_path / "in.txt"
    file.write_bytes(b"ab\r\nc\r\n\rdefgh\n\ni")
    assert [row.text for row in rows_of(file, 2)] == ["ab", "c", "", "defgh", "", "i"]


def test_ranges_of_parquet_lie_in_row_groups(tmp_path):
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table({"_id": range(25), "text": [f"t{n}" for n in range(25)]}), file, row_group_size=10)
    (known,) = find_files([str(file)])
    assert [(part.first, part.rows) for part in plan(known, 4)][:4] == [(1, 4), (5, 4), (9, 2), (11, 4)]
    assert [(row.id, row.text) for row in rows_of(file, 4)] == [(str(n), f"t{n}") for n in range(25)]


def test_bad_rows_are_named_and_others_stay(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": 3}\n\xff\n{"text": "b"}\n')
    rows = rows_of(file, 3)
    assert [row.text for row in rows] == ["a", None, None, "b"]
    assert rows[1].error.startswith(f"line 2 of {file}: field 'text' is int")


def test_a_file_that_changed_is_not_read(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("a\n")
    (known,) = find_files([str(file)])
    (part,) = plan(known, 4)
    file.write_text("ab\n")
    with pytest.raises(zr.InputError, match="changed while the job ran"):
        read(part, PARSE, ("text",))


def test_folders_patterns_and_uris_mean_the_same_files(tmp_path):
    for name in ("a.jsonl", "b/c.jsonl", "b/_d.jsonl", ".e.jsonl", "f.csv", "g.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    there = lambda *inputs: [file.name.removeprefix(f"{tmp_path}/") for file in find_files(inputs)]  # noqa: E731
    assert there(str(tmp_path)) == ["a.jsonl", "b/c.jsonl", "g.md"]
    assert there(f"{tmp_path}/*.jsonl") == ["a.jsonl"]
    assert there(f"{tmp_path}/**/*.jsonl", str(tmp_path / "a.jsonl")) == ["a.jsonl", "b/c.jsonl"]
    assert [file.name for file in find_files([f"file://{tmp_path}/b/c.jsonl"])] == [f"file://{tmp_path}/b/c.jsonl"]
    assert next(file.name for file in find_files([f"file://{tmp_path}"])) == f"file://{tmp_path}/a.jsonl"
    for nothing in ("nowhere", "*.csv", "f.csv"):
        with pytest.raises(zr.InputError, match="Give "):
            find_files([f"{tmp_path}/b/{nothing}" if nothing != "f.csv" else f"{tmp_path}/f.csv"])
    with pytest.raises(zr.ConfigError, match="cannot be opened"):
        find_files(["nosuch://a/b"])


def test_remote_files_are_read_and_written(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/a.txt", "一\n二\n三\n".encode())
    files = find_files(["memory://in/"])
    assert [row.text for part in plan(files[0], 2) for row in read(part, PARSE, ("text",))] == ["一", "二", "三"]
    folder = PartFolder("memory://out")
    folder.claim({"a": 1}, restart=False)
    folder.write("part-1.parquet", pa.table({"id": ["1"]}))
    assert folder.parts() == {"part-1.parquet"}
    folder.release(finished=True)
    assert sorted(path.rpartition("/")[2] for path in memory.find("/out")) == ["_manifest.json", "part-1.parquet"]


# --- the folder ----------------------------------------------------------------------------------------------------


def claimed(path, job, restart=False):
    folder = PartFolder(str(path))
    folder.claim(job, restart=restart)
    return folder


def test_another_jobs_folder_is_refused_and_dropped_on_request(tmp_path):
    folder = claimed(tmp_path, {"model": "a", "rows": 1})
    folder.write("part-1.parquet", pa.table({"id": ["1"]}))
    folder.release()
    with pytest.raises(zr.ConfigError, match=r"parts of another job: it differs in model\."):
        claimed(tmp_path, {"model": "b", "rows": 1})
    again = claimed(tmp_path, {"model": "a", "rows": 1})
    assert again.parts() == {"part-1.parquet"}
    with pytest.raises(zr.ConfigError, match="Another process is writing"):
        claimed(tmp_path, {"model": "a", "rows": 1})
    again.release()
    dropped = claimed(tmp_path, {"model": "b"}, restart=True)
    assert dropped.parts() == set()
    dropped.release(finished=True)


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for restart in (False, True):
        with pytest.raises(zr.ConfigError, match=r"no job's, such as 'mine\.txt'"):
            claimed(tmp_path, {}, restart)
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    local = filesystem.locate(str(tmp_path))[0]
    with pytest.raises(OSError, match="No space left"):
        filesystem.write_whole(local, str(tmp_path), "part-1.parquet", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_workers_that_compute_otherwise_are_refused():
    one = {"dtype": "torch.float32", "max_length": 512, "probe": [1.0, 0.0]}
    check_alike(one, {**one, "probe": [1.0, 1e-3]})
    for other in ({"dtype": "torch.bfloat16"}, {"max_length": 128}, {"probe": [0.9, 0.4]}, {"probe": [1.0]}):
        with pytest.raises(zr.InputError):
            check_alike(one, {**one, **other})


# --- workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "workers", "cpus", "device", "expected"),
    [
        ([Node(2)], None, None, "auto", Workers(1, 2)),
        ([Node(2)], 2, None, "auto", Workers(2, 1)),
        ([Node(64), Node(8)], None, None, "auto", Workers(9, 8)),
        ([Node(10), Node(4)], 3, None, "cpu", Workers(3, 4)),
        ([Node(4)], None, 1, "auto", Workers(4, 1)),
        ([Node(2)], 5, None, "auto", Workers(5, 1)),
        ([Node(32, 4), Node(8)], None, None, "auto", Workers(4, 4, gpus=1)),
        ([Node(4, 4)], 2, None, "cuda", Workers(2, 1, gpus=1)),
        ([Node(32, 4)], None, None, "cpu", Workers(4, 8)),
    ],
)
def test_no_core_gets_two_threads(machines, workers, cpus, device, expected):
    assert plan_workers(machines, workers, cpus, device) == expected


def test_what_a_cluster_cannot_have_is_refused():
    with pytest.raises(zr.ConfigError, match="no GPU"):
        plan_workers([Node(2)], None, None, "cuda:0")
    with pytest.raises(zr.ConfigError, match="workers=0"):
        plan_workers([Node(2)], 0, None)


def test_rooms_import_no_ray_and_say_what_is_missing(monkeypatch):
    code = "import sys, zh_retrieval.distributed as d; d.EmbedDocuments, d.embed_dataset; print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(zr.MissingExtraError, match=r"zh-retrieval\[ray\]"), connected("local"):
        pass


# --- rows ----------------------------------------------------------------------------------------------------------


def test_bad_items_are_found_among_good_ones():
    def compute(items):
        if any(item < 0 for item in items):
            raise zr.InputError("negative")
        return np.array(items, dtype=np.float32)

    for items in ([], [1], [-1], [1, -2, 3, 4, -5, 6, 7]):
        good, rows, errors = each(compute, items)
        assert rows.tolist() == [item for item in items if item >= 0] == [items[index] for index in good]
        assert sorted(errors) == [index for index, item in enumerate(items) if item < 0]


@pytest.fixture(scope="module")
def mapped():
    return EmbedDocuments("e5-small-zh", dtype="float32", device="cpu", on_error="null")


def test_arrow_goes_in_and_fixed_size_lists_come_out(mapped, encoder):
    table = pa.table({"id": [1, 2, 3], "text": ["天气", None, "绿茶"]})
    found = mapped(table)
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert found.column("id").to_pylist() == [1, 2, 3]
    assert found.column("embedding").to_pylist()[1] is None
    assert "NoneType" in found.column("error").to_pylist()[1]
    vectors = np.array([vector for vector in found.column("embedding").to_pylist() if vector])
    np.testing.assert_allclose(vectors, encoder.encode_documents(["天气", "绿茶"]), atol=1e-6)
    assert mapped(table.slice(0, 0)).column("embedding").to_pylist() == []
    with pytest.raises(zr.InputError, match=r"texts\[1\]"):
        EmbedDocuments("e5-small-zh", dtype="float32", device="cpu")(table)
    with pytest.raises(zr.ConfigError, match="no column 'text'"):
        mapped(table.drop_columns("text"))


def test_mappings_travel_without_weights(mapped):
    import pickle

    mapped(pa.table({"text": ["天气"]}))
    assert len(pickle.dumps(mapped)) < 5000
    for wrong in (lambda: EmbedDocuments("bge-reranker-large"), lambda: ScorePairs("bge-base-zh")):
        with pytest.raises(zr.WrongTaskError):
            wrong()
    with pytest.raises(TypeError, match="no option"):
        EmbedDocuments("bge-base-zh", dtyp="float32")


def test_a_bad_row_fails_its_range_or_is_kept_as_null(tmp_path, encoder):
    file = tmp_path / "in.jsonl"
    file.write_text('{"id": "x", "text": "a"}\n{"text": null}\n{"text": "b"}\n')
    (part,) = plan(find_files([str(file)])[0], 9)
    for keep in (False, True):
        out = tmp_path / f"out{keep}"
        work = Work(
            "e5-small-zh", {"dtype": "float32", "device": "cpu"}, "document", None, "text", None, keep, str(out)
        )
        worker = RangeWorker(work, 1)
        worker.load(None)
        done = worker.embed(part)
        assert [f"line 2 of {file}: " in line for line in done.said] == [True]
        if not keep:
            assert done.failure
            assert PartFolder(str(out)).parts() == set()
            continue
        assert (done.rows, done.bad, done.failure) == (3, 1, None)
        table = pq.read_table(out / part.part)
        assert table.column("id").to_pylist() == ["x", f"line 2 of {file}", f"line 3 of {file}"]
        assert [vector is None for vector in table.column("embedding").to_pylist()] == [False, True, False]
