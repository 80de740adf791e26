"""What needs no cluster: ranges, the folder of parts, how many workers, and what a worker makes of its rows."""

import gzip
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zh_retrieval as zr
from zh_retrieval.cli.main import main
from zh_retrieval.distributed import EmbedDocuments, ScorePairs
from zh_retrieval.distributed.encoding import Encoding, compute_valid
from zh_retrieval.distributed.job import filesystem
from zh_retrieval.distributed.job.agreement import check_alike
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import find_inputs, pieces
from zh_retrieval.distributed.job.summary import Summary
from zh_retrieval.distributed.job.worker import RangeWorker, Reading, Work
from zh_retrieval.distributed.resources import Node, Workers, connected, plan_workers
from zh_retrieval.files.reading.ranges import RangeReader
from zh_retrieval.files.reading.records import Reader

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
FORM = Reading("text", "title").form()
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


# --- pieces --------------------------------------------------------------------------------------------------------


def inputs(*paths, output="nowhere"):
    return find_inputs([str(path) for path in paths], str(output), lambda _: None)


@FUZZ
@given(
    st.lists(st.sampled_from(["", " ", "茶", '{"text": "a"}', '{"id": 7, "text": "b", "title": "c"}', "{", "x" * 9])),
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1),
    st.integers(1, 5),
    st.sampled_from([".jsonl", ".txt", ".md", ".txt.gz"]),
    st.booleans(),
)
def test_pieces_hold_what_the_local_command_reads(tmp_path, lines, endings, size, suffix, last):
    file = tmp_path / f"in{suffix}"
    content = "".join(line + endings[number % len(endings)] for number, line in enumerate(lines))
    written = b"\xef\xbb\xbf" + content.encode() + (b"y" if last else b"")
    file.write_bytes(gzip.compress(written) if suffix.endswith(".gz") else written)
    (source,) = inputs(file)
    reader = RangeReader()
    found = [row for piece in pieces(source, size, FORM) for row in reader.read(piece.range)]
    reader.close()
    ours = [(record.id, record.text) for record in map(FORM.record, found) if record.error is None]
    local = Reader(FORM, skip=True, say=lambda _: None)
    try:
        records = list(local.read([str(file)]))
    except zr.InputError:  # all rows are bad
        records = []
    assert ours == [(record.id, record.text) for record in records]


def test_relative_names_mean_the_same_files_and_parts_everywhere(tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.jsonl").write_text('{"text": "a"}\n')
    (known,) = inputs(tmp_path / "c" / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    for spelling in ("c", "c/", "./c/a.jsonl", "c/../c/*.jsonl", f"{tmp_path}/c"):
        (source,) = inputs(spelling)
        assert source.name == known.name == str(tmp_path / "c" / "a.jsonl")
        assert pieces(source, 9, FORM) == pieces(known, 9, FORM)


def test_an_output_inside_its_input_is_no_input(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    folder = claimed(tmp_path / "vectors", {})
    folder.write("part-1.parquet", pa.table({"id": ["a"]}))
    folder.release(finished=True)
    assert [source.name for source in inputs(tmp_path, output=tmp_path / "vectors")] == [str(tmp_path / "a.jsonl")]


def test_a_table_without_the_column_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "a.csv").write_text("id,content\n1,x\n")
    pq.write_table(pa.table({"id": ["1"], "content": ["x"]}), tmp_path / "b.parquet")
    for source in inputs(tmp_path):
        with pytest.raises(zr.InputError, match="no column 'text'"):
            pieces(source, 9, FORM)


def test_remote_folders_are_written(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    folder = PartFolder("memory://out")
    mark = folder.claim({"a": 1}, restart=False)
    folder.check_mark(mark)
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
    one = {"dtype": "torch.float32", "max_length": 512, "fingerprint": "a", "probe": [1.0, 0.0]}
    check_alike(one, {**one, "probe": [1.0, 1e-3]})
    others = (
        {"dtype": "torch.bfloat16"},
        {"max_length": 128},
        {"fingerprint": "b"},
        {"probe": [0.9, 0.4]},
        {"probe": [1.0]},
    )
    for other in others:
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
        ([Node(0), Node(8, 1)], None, None, "auto", Workers(1, 4, gpus=1)),
    ],
)
def test_no_core_gets_two_threads(machines, workers, cpus, device, expected):
    assert plan_workers(machines, workers, cpus, device) == expected


def test_a_cluster_that_grows_is_asked_for_what_was_said():
    said = []
    assert plan_workers([Node(0)], 20, 8, "auto", gpus=1, say=said.append) == Workers(20, 8, gpus=1)
    assert plan_workers([Node(0)], 20, 8, "cuda", gpus=2, say=said.append) == Workers(20, 8, gpus=2)
    assert plan_workers([Node(32, 4)], None, None, "auto", gpus=2, say=said.append) == Workers(2, 8, gpus=2)
    assert plan_workers([Node(32, 4)], None, None, "auto", gpus=0, say=said.append) == Workers(4, 8)
    assert said == []
    assert plan_workers([Node(0)], None, None, say=said.append) == Workers(1, 1)
    assert "say how many with workers" in said[0]


def test_what_a_cluster_cannot_have_is_refused():
    with pytest.raises(zr.ConfigError, match="no GPU"):
        plan_workers([Node(2)], None, None, "cuda")
    for machines, gpus in (([Node(2, 1)], None), ([], 1)):  # Ray hides all GPUs but the worker's own
        with pytest.raises(zr.ConfigError, match="a GPU of its own"):
            plan_workers(machines, None, None, "cuda:1", gpus=gpus)
    with pytest.raises(zr.ConfigError, match="hide every GPU"):
        plan_workers([Node(2, 1)], None, None, "cuda", gpus=0)
    with pytest.raises(zr.ConfigError, match="workers=0"):
        plan_workers([Node(2)], 0, None)


def test_rooms_import_no_ray_and_say_what_is_missing(monkeypatch):
    code = "import sys, zh_retrieval.distributed as d; d.EmbedDocuments, d.embed_dataset; print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(zr.MissingExtraError, match=r"zh-retrieval\[ray\]"), connected("local"):
        pass


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("local", Exception("The current node timed out during startup."), "Ray does not start on this machine"),
        ("head:1", ConnectionError("Could not find any running Ray instance"), "No Ray cluster answers at 'head:1'"),
        ("head:1", RuntimeError("RPC error: InvalidAuthToken: token is missing"), "takes nobody without its token"),
    ],
)
def test_why_there_is_no_cluster_is_one_line(monkeypatch, address, error, said):
    class Ray(ModuleType):
        def is_initialized(self):
            return False

        def init(self, **_):
            raise ConnectionError("Failed to connect") from error

    monkeypatch.setitem(sys.modules, "ray", Ray("ray"))
    with pytest.raises(zr.ConfigError, match=said), connected(address):
        pass


def test_the_command_hands_on_what_its_environment_says(tmp_path, monkeypatch):
    asked = []

    def embed_files(inputs, work, job, size, **_):
        asked.append((work, job, size))
        return Summary()

    monkeypatch.setattr("zh_retrieval.distributed.job.run.embed_files", embed_files)
    monkeypatch.setenv("ZH_RETRIEVAL_DTYPE", "float32")
    monkeypatch.chdir(tmp_path)
    flags = ["--gpus", "1", "--workers", "3", "--text-field", "body", "--id-field", "key"]
    assert main(["embed", "a.jsonl", "-o", "v", "--ray", "local", *flags]) == 0
    ((work, job, size),) = asked
    assert work.encoding.options["dtype"] == job["options"]["dtype"] == "float32"
    assert (work.output, work.reading.text_field, work.reading.id_field) == (str(tmp_path / "v"), "body", "key")
    assert (size.workers, size.gpus) == (3, 1)


@pytest.mark.parametrize("flag", ["--workers", "--cpus", "--gpus", "--part-rows"])
def test_flags_of_a_cluster_without_one_are_refused(tmp_path, capsys, flag):
    assert main(["embed", "a.jsonl", "-o", str(tmp_path / "v.npy"), flag, "2"]) == 2
    assert f"{flag} is for clusters. Add --ray" in capsys.readouterr().err


# --- rows ----------------------------------------------------------------------------------------------------------


def test_bad_items_are_found_among_good_ones():
    def compute(items):
        if any(item < 0 for item in items):
            raise zr.InputError("negative")
        return np.array(items, dtype=np.float32)

    for items in ([], [1], [-1], [1, -2, 3, 4, -5, 6, 7]):
        good, rows, errors = compute_valid(compute, items)
        assert rows.tolist() == [item for item in items if item >= 0] == [items[index] for index in good]
        assert sorted(errors) == [index for index, item in enumerate(items) if item < 0]


@pytest.fixture(scope="module")
def weights():
    """Hold the weights that the workers here share."""
    with zr.load_encoder("e5-small-zh", dtype="float32", device="cpu", threads=1) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def mapped(weights):
    return EmbedDocuments("e5-small-zh", dtype="float32", device="cpu", on_error="null", threads=1)


def test_arrow_goes_in_and_fixed_size_lists_come_out(mapped, weights):
    table = pa.table({"id": [1, 2, 3], "text": ["天气", None, "绿茶"]})
    found = mapped(table)
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert found.column("id").to_pylist() == [1, 2, 3]
    assert found.column("embedding").to_pylist()[1] is None
    assert "NoneType" in found.column("error").to_pylist()[1]
    assert "texts[" not in found.column("error").to_pylist()[1]
    vectors = np.array([vector for vector in found.column("embedding").to_pylist() if vector])
    np.testing.assert_allclose(vectors, weights.encode_documents(["天气", "绿茶"]), atol=1e-6)
    assert mapped(table.slice(0, 0)).column("embedding").to_pylist() == []
    with pytest.raises(zr.InputError, match=r"texts\[1\]"):
        EmbedDocuments("e5-small-zh", dtype="float32", device="cpu", threads=1)(table)
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


def made(tmp_path, file, *, keep, reading=None):
    """Return what a worker made of a file of one piece, and its part."""
    encoding = Encoding("e5-small-zh", {"dtype": "float32", "device": "cpu"})
    work = Work(encoding, reading or Reading(), keep, str(tmp_path / "out"))
    (source,) = inputs(file)
    (piece,) = pieces(source, 99, work.reading.form())
    worker = RangeWorker(work, 1)
    worker.load()
    done = worker.embed(piece, "part-1.parquet")
    worker.close()
    return done, pq.read_table(tmp_path / "out" / done.part) if done.failure is None else None


def test_a_bad_row_fails_its_range_or_is_kept_as_null(tmp_path, weights):
    file = tmp_path / "in.jsonl"
    file.write_text('{"id": "x", "text": "a"}\n{"text": null}\n\n{"text": "b"}\n')
    done, _ = made(tmp_path, file, keep=False)
    assert f"line 2 of {file}: " in done.failure
    assert PartFolder(str(tmp_path / "out")).parts() == set()
    done, table = made(tmp_path, file, keep=True)
    assert (done.rows, done.bad, len(done.first_errors)) == (3, 1, 1)
    assert table.column("id").to_pylist() == ["x", f"line 2 of {file}", f"line 4 of {file}"]
    assert [vector is None for vector in table.column("embedding").to_pylist()] == [False, True, False]
    assert f"line 4 of {file}" in done.no_id


def test_columns_stay_with_their_vectors(tmp_path, weights):
    file = tmp_path / "in.parquet"
    table = pa.table(
        {"chunk_id": [7, 8], "content": ["天气", "公园"], "doc_url": ["u", "v"], "at": pa.array([1, 2], "date32")}
    )
    pq.write_table(table, file)
    reading = Reading("content", id_field="chunk_id")
    done, found = made(tmp_path, file, keep=False, reading=reading)
    assert done.no_id is None
    assert found.column("id").to_pylist() == ["7", "8"]
    assert found.column("text").to_pylist() == ["天气", "公园"]
    assert found.column("doc_url").to_pylist() == ["u", "v"]
    assert found.column("at").type == pa.date32()
    _, found = made(tmp_path, file, keep=False, reading=Reading("content", id_field="chunk_id", others=False))
    assert found.column_names == ["id", "text", "embedding", "error"]


def test_what_python_cannot_hold_is_one_bad_row(tmp_path, weights):
    file = tmp_path / "in.parquet"
    offsets = pa.py_buffer(b"\0\0\0\0\3\0\0\0\5\0\0\0")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xd6\xd0\xceok")])
    pq.write_table(pa.table({"id": ["bad", "good"], "text": broken}), file)
    done, table = made(tmp_path, file, keep=True)
    assert (done.rows, done.bad, done.failure) == (2, 1, None)
    assert [vector is None for vector in table.column("embedding").to_pylist()] == [True, False]


def test_a_wrong_field_is_an_error_even_where_bad_rows_are_kept(tmp_path, weights):
    file = tmp_path / "in.jsonl"
    file.write_text('{"id": 1, "content": "a"}\n{"id": 2, "content": "b"}\n')
    done, _ = made(tmp_path, file, keep=True)
    assert "no row has a field 'text', only 'id', 'content'" in done.failure


def test_texts_that_are_cut_are_counted(tmp_path, weights):
    file = tmp_path / "in.txt"
    file.write_text("天气很好" * 1000 + "\n天气\n", encoding="utf-8")
    done, _ = made(tmp_path, file, keep=False)
    assert done.cut == 1
    assert done.lost >= 1


def test_what_nobody_foresaw_costs_one_part(tmp_path, weights, monkeypatch):
    file = tmp_path / "in.txt"
    file.write_text("天气\n", encoding="utf-8")

    def surprised(*_, **__):
        raise OverflowError("date value out of range")

    monkeypatch.setattr("zh_retrieval.distributed.job.worker.columns_of", surprised)
    done, _ = made(tmp_path, file, keep=True)
    assert done.failure == "OverflowError: date value out of range"


def test_batches_that_are_no_arrow_tables_are_refused_with_the_argument_to_add(mapped):
    with pytest.raises(zr.ConfigError, match='batch_format="pyarrow"'):
        mapped({"text": np.array(["天气"])})
