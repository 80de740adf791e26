"""Workers of a job without a cluster: who is compared, who is waited for, and when a job ends."""

from types import SimpleNamespace

import pytest

import zh_retrieval as zr
from zh_retrieval.distributed.encoding import Encoding
from zh_retrieval.distributed.job import dispatch, run
from zh_retrieval.distributed.job.dispatch import Dispatch
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import find_inputs, pieces
from zh_retrieval.distributed.job.run import compare
from zh_retrieval.distributed.job.summary import Summary
from zh_retrieval.distributed.job.worker import Done, RangeWorker, Reading, Work
from zh_retrieval.distributed.resources import Workers

pa = pytest.importorskip("pyarrow")
FORM = Reading().form()
COMPUTES = {"dtype": "float32", "max_length": 512, "fingerprint": "a", "probe": [1.0, 0.0]}


class _Error(Exception):
    pass


class _TaskError(_Error):
    pass


class _Exceptions:
    RayError = _Error
    RayTaskError = _TaskError


class _Method:
    def __init__(self, call):
        self.call = call

    def remote(self, *arguments):
        return _Method(lambda: self.call(*arguments))


class _Maker:
    def __init__(self, actor):
        self.actor = actor

    def remote(self, *_):
        return self.actor


class FakeRay:
    """As much of Ray as a job asks for; results are there as soon as somebody waits for them.

    Attributes:
        loads: What `load` of each worker does, in their order; the last one of those that follow too.
        embed: What `embed` of all workers does; None: it never answers.
    """

    exceptions = _Exceptions

    def __init__(self, loads, embed, machines=1):
        self.loads, self.embed, self.machines, self.started = list(loads), embed, machines, 0

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1}}] * self.machines

    def remote(self, _):
        return self

    def options(self, **_):
        load = self.loads[min(self.started, len(self.loads) - 1)]
        self.started += 1
        return _Maker(SimpleNamespace(load=_Method(load), embed=_Method(self.embed)))

    def wait(self, results, num_returns=1, timeout=None):
        return (results[:1] if self.embed else []), results

    def get(self, result):
        return result.call()

    def kill(self, worker):
        pass


def loaded(**computes):
    return lambda: ({**COMPUTES, **computes}, 0.1)


def dies(*_):
    raise _Error("The actor died.\nIt was killed by the system.")


@pytest.fixture
def folder(tmp_path):
    folder = PartFolder(str(tmp_path / "out"))
    folder.claim({"model": "a"}, restart=False)
    yield folder
    folder.release()


@pytest.fixture
def planned(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("".join(f"第{number}行\n" for number in range(8)), encoding="utf-8")
    (source,) = find_inputs([str(file)], str(tmp_path / "out"), print)
    return pieces(source, 1, FORM)


def dispatched(ray, folder, planned, workers=2):
    said, summary = [], Summary()
    work = Work(Encoding("m"), Reading(), False, folder.name)
    job = Dispatch(ray, work, folder, Workers(workers, 1), summary, said.append, lambda _: None)
    return job.run(list(planned)), summary, said


def test_workers_that_start_together_are_compared_before_they_get_rows(folder, planned):
    embedded = []
    different = {"dtype": "bfloat16"}, {"fingerprint": "b"}, {"probe": [0.0, 1.0]}
    for computes in different:
        ray = FakeRay([loaded(), loaded(**computes)], lambda piece, part: embedded.append(part) or Done(part, rows=1))
        with pytest.raises(zr.InputError):
            dispatched(ray, folder, planned)
    assert len(embedded) <= len(different) * dispatch._AT_ONCE  # those of the first worker


def test_a_worker_that_differs_from_what_is_in_the_folder_is_refused(folder, planned):
    written, _, _ = dispatched(FakeRay([loaded()], lambda _, part: Done(part, rows=1)), folder, planned)
    assert len(written) == 8
    folder.write(written[0], pa.table({"id": ["1"]}))
    with pytest.raises(zr.InputError, match="different vectors"):
        dispatched(FakeRay([loaded(fingerprint="b")], lambda _, part: Done(part, rows=1)), folder, planned)


def test_parts_carry_the_job_in_their_names(folder, planned):
    written, _, _ = dispatched(FakeRay([loaded()], lambda _, part: Done(part, rows=1)), folder, planned)
    names = {name.split("-")[1] for name in written}
    assert names == {folder.identity}
    folder.release()
    folder.claim({"model": "a"}, restart=True)
    others, _, _ = dispatched(FakeRay([loaded(fingerprint="b")], lambda _, part: Done(part)), folder, planned)
    assert not {*others} & {*written}


def test_a_cluster_whose_last_machine_dies_ends_the_job(folder, planned, monkeypatch):
    monkeypatch.setattr(dispatch, "_LOOK", -1.0)
    ray = FakeRay([loaded()], None, machines=0)
    written, summary, said = dispatched(ray, folder, planned)
    assert written == []
    assert summary.failures == ["no machine of the cluster lives any more: 8 parts were not made"]
    assert "no machine" in said[-1]


def test_workers_that_die_while_they_load_end_the_job_with_a_line(folder, planned):
    _, summary, said = dispatched(FakeRay([dies], dies), folder, planned, workers=1)
    assert summary.deaths == 5
    assert "5 workers in a row died while they loaded" in said[-1]
    assert "It was killed by the system" in summary.failures[0]


def test_waiting_without_any_worker_is_said_again_and_again(folder, planned, monkeypatch):
    monkeypatch.setattr(dispatch, "_PATIENCE", 0.0)
    monkeypatch.setattr(dispatch, "_LOOK", 5)
    ray, rounds = FakeRay([loaded()], None), []

    def wait(results, **_):
        rounds.append(1)
        if len(rounds) > 3:
            ray.machines = 0
            monkeypatch.setattr(dispatch, "_LOOK", -1)
        return [], results

    ray.wait = wait
    _, _, said = dispatched(ray, folder, planned)
    assert "no worker for" in said[0]


def test_failures_without_end_end_the_job(folder, planned, monkeypatch):
    monkeypatch.setattr(dispatch, "_FAILURES", 3)
    ray = FakeRay([loaded()], lambda _, part: Done(part, failure="no field 'text'"))
    _, summary, _ = dispatched(ray, folder, planned, workers=1)
    assert len(summary.failures) < 8
    assert "3 parts in a row failed" in "".join(summary.failures)


def test_a_machine_that_does_not_share_the_folder_is_refused_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("zh_retrieval.distributed.job.folder._SHARED_WITHIN", 0.0)
    folder = PartFolder(str(tmp_path / "out"))
    mark = folder.claim({}, restart=False)
    options = {"dtype": "float32", "device": "cpu"}
    elsewhere = Work(Encoding("e5-small-zh", options), Reading(), False, str(tmp_path / "own"), mark)
    with pytest.raises(zr.ConfigError, match="is not the folder of that name where the command runs"):
        RangeWorker(elsewhere, 1).load()
    assert not (tmp_path / "own").exists()
    here = Work(Encoding("e5-small-zh", options), Reading(), False, folder.name, mark)
    assert RangeWorker(here, 1).load()[0]["fingerprint"]
    folder.release(finished=True)


def test_a_worker_that_cannot_start_is_one_line(folder, planned):
    def breaks():
        raise _TaskError("Traceback\nModuleNotFoundError: No module named 'zh_retrieval'")

    with pytest.raises(zr.ConfigError, match="cannot start: ModuleNotFoundError: No module named 'zh_retrieval'"):
        dispatched(FakeRay([breaks], dies), folder, planned)


def test_a_cluster_that_dies_while_files_are_planned_ends_the_job():
    with pytest.raises(zr.ConfigError, match="No machine of the cluster lives"):
        run._wait(FakeRay([], None, machines=0), [_Method(dies)], print)


def test_parts_that_workers_wrote_elsewhere_are_missed(folder, monkeypatch):
    monkeypatch.setattr(run, "_SEEN_WITHIN", 0.0)
    folder.write("part-1.parquet", pa.table({"id": ["1"]}))
    assert run._absent(folder, {"part-1.parquet", "part-2.parquet"}) == {"part-2.parquet"}


# --- growing corpora -----------------------------------------------------------------------------------------------


def in_folder(folder, *files):
    planned = {source: pieces(source, 2, FORM) for source in find_inputs([str(file) for file in files], "out", print)}
    summary, said = Summary(), []
    waiting, kept = compare(folder, planned, summary, said.append)
    for piece in waiting:
        folder.write(piece.name(folder.identity), pa.table({"id": [str(piece)]}))
    return len(waiting), len(kept), summary.others, len(said)


def test_a_corpus_grows_by_files_and_by_lines(tmp_path, folder):
    folder.agree(COMPUTES)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("{}\n" * 4)
    assert in_folder(folder, one) == (2, 0, 0, 0)
    two.write_text("{}\n")
    assert in_folder(folder, one, two) == (1, 2, 0, 0)
    assert in_folder(folder, two) == (0, 1, 2, 0), "parts of files that are not given stay"
    one.touch()
    assert in_folder(folder, two, one) == (0, 3, 0, 0)
    one.write_text("{}\n" * 5)
    assert in_folder(folder, one, two) == (1, 3, 0, 0), "lines that were there keep their parts"
    one.write_text('{"a": 1}\n' + "{}\n")
    assert in_folder(folder, one, two) == (1, 1, 0, 1)
    assert len(folder.parts()) == 2, "parts of lines that are gone are dropped"


def test_a_start_that_failed_does_not_keep_the_folder(tmp_path):
    for model in "ab":
        folder = PartFolder(str(tmp_path / "out"))
        folder.claim({"model": model}, restart=False)
        folder.release()
    assert folder.manifest()["job"] == {"model": "b"}


def test_restart_drops_no_file_of_somebody_else(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"of another program")
    with pytest.raises(zr.ConfigError, match="no job's"):
        PartFolder(str(tmp_path)).claim({}, restart=True)
    assert (tmp_path / "part-00000.parquet").exists()
