"""A cluster on this machine: every row once, whoever is killed, and the same vectors as without a cluster."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from zh_retrieval.cli.main import main
from zh_retrieval.distributed import EmbedDocuments, embed_dataset
from zh_retrieval.distributed.job import run

pq = pytest.importorskip("pyarrow.parquet")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]
LINES = 3000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(2):
        lines = [{"id": f"{number}-{n}", "text": f"第{n}段文字，今天天气很好{n * 7919}"} for n in range(LINES)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{number}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(corpus, flags, tmp_path_factory):
    output = tmp_path_factory.mktemp("local") / "out.parquet"
    assert main(["embed", *map(str, sorted(corpus.iterdir())), "-o", str(output), *flags]) == 0
    return vectors(output)


def vectors(path):
    table = pq.read_table(path)
    ids = table.column("id").to_pylist()
    assert len(set(ids)) == len(ids), "a row is there twice"
    return dict(zip(ids, np.array(table.column("embedding").to_pylist(), dtype=np.float32), strict=True))


def assert_once(output, expected):
    found = vectors(output)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(np.array([found[id] for id in expected]), np.array(list(expected.values())), atol=1e-6)
    strangers = [path.name for path in output.iterdir() if not path.name.startswith("part-")]
    assert strangers == ["_manifest.json"]


def parts(output):
    return sum(path.name.startswith("part-") for path in output.iterdir()) if output.is_dir() else 0


def workers():
    return [process for process in psutil.process_iter() if "ray::RangeWorker" in " ".join(_line(process))]


def _line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"it did not come to it: {process.communicate()[1]}")


def test_killed_workers_double_and_lose_nothing(corpus, flags, start, faults, tmp_path, expected):
    output = tmp_path / "out"
    (faults / "slow").touch()
    job = start(corpus, "-o", output, *flags, "--workers", 2, "--part-rows", 500)
    moments = {
        "while it loads": workers,
        "while it writes": lambda: parts(output) >= 1 and any((output / "_temporary").iterdir()) and workers(),
        "between parts": lambda: parts(output) >= 4 and workers(),
    }
    for condition in moments.values():
        wait_for(condition, job)[0].kill()
        time.sleep(0.3)
    (faults / "slow").unlink()
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert "workers died and were replaced" in said
    assert_once(output, expected)


def test_killed_drivers_double_and_lose_nothing(corpus, flags, start, faults, tmp_path, expected):
    output = tmp_path / "out"
    command = [corpus, "-o", output, *flags, "--workers", 1, "--part-rows", 500]
    (faults / "slow").touch()
    for moment in ((output / "_manifest.json").exists, lambda: parts(output) >= 2):
        job = start(*command)
        wait_for(moment, job)
        os.kill(job.pid, signal.SIGKILL)
        job.communicate()
    (faults / "slow").unlink()
    done = parts(output)
    last = start(*command)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert done >= 2
    assert_once(output, expected)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    again = start(*command)
    assert "12 parts were there" in again.communicate(timeout=60)[1]
    assert again.returncode == 0
    assert {name: stamp for name, stamp in before.items() if name != "_lock"} == {
        path.name: path.stat().st_mtime_ns for path in output.iterdir()
    }
    other = start(corpus, "-o", output, *flags, "--max-length", 64, "--workers", 1, "--part-rows", 500)
    assert "parts of another job: it differs in options" in other.communicate(timeout=60)[1]
    assert other.returncode == 2


def test_what_cannot_be_done_is_named_and_the_rest_is_done(flags, start, faults, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "broken.parquet").write_bytes(b"no table")
    (folder / "good.txt").write_text("天气\n公园\n", encoding="utf-8")
    (folder / "poisoned.jsonl").write_text('{"text": "天"}\n{"text": 3}\n', encoding="utf-8")
    command = [folder, "-o", output, *flags, "--workers", 1]
    (faults / "full").touch()
    full = start(*command)
    said = full.communicate(timeout=90)[1]
    assert full.returncode in (1, 2)
    assert "No space left on device" in said
    (faults / "full").unlink()
    job = start(*command)
    said = job.communicate(timeout=90)[1]
    assert job.returncode == 1
    assert f"{folder}/broken.parquet" in said
    assert f"line 2 of {folder}/poisoned.jsonl: field 'text' is int" in said
    assert set(vectors(output)) == {f"{folder}/good.txt:1", f"{folder}/good.txt:2"}
    (folder / "broken.parquet").chmod(0o644)
    skipping = start(*command, "--on-error", "skip")
    said = skipping.communicate(timeout=90)[1]
    assert "1 rows have no vector" in said
    errors = pq.read_table(output).column("error").to_pylist()
    assert len(errors) == 4
    assert sum(error is not None for error in errors) == 1


def test_a_dataset_gets_the_vectors_of_the_local_model(cluster, flags, corpus, expected, recwarn):
    data = pytest.importorskip("ray.data")
    path = flags[3]
    dataset = data.read_json(str(corpus / "0.jsonl")).limit(300)
    options = {"path": path, "dtype": "float32", "device": "cpu"}
    embedded = embed_dataset(dataset, "bge-base-zh", workers=1, on_error="null", **options)
    rows = embedded.take_all()
    assert len({row["id"] for row in rows}) == 300
    for row in rows:
        np.testing.assert_allclose(row["embedding"], expected[row["id"]], atol=1e-6)
        assert row["error"] is None
    stopped = data.from_items([{"text": "a"}, {"text": None}])
    with pytest.raises(Exception, match="texts\\[1\\]"):
        embed_dataset(stopped, "bge-base-zh", workers=1, **options).materialize()
    gc.collect()  # the error and its frames know each other, and the worker with its CPU: the next job waits for it
    ours = [str(one.message) for one in recwarn if issubclass(one.category, DeprecationWarning) and _ours(one)]
    assert ours == []


def _ours(warning):
    text = str(warning.message)
    return "zh_retrieval" in warning.filename or "compute" in text or "concurrency" in text


def test_an_actor_computes_in_as_many_threads_as_it_has_cpus(cluster, flags):
    class Asked(EmbedDocuments):
        def __call__(self, batch):
            super().__call__(batch)
            graph = self._loaded.dense._model.engine._request.get_compiled_model()
            return batch.append_column("threads", [[graph.get_property("INFERENCE_NUM_THREADS")] * len(batch)])

    data = pytest.importorskip("ray.data")
    options = {"model": "bge-base-zh", "path": flags[3], "device": "cpu", "dtype": "float32"}
    pool = {"compute": data.ActorPoolStrategy(size=1)} if hasattr(data, "ActorPoolStrategy") else {"concurrency": 1}
    found = data.from_items([{"text": "天气"}]).map_batches(
        Asked, fn_constructor_kwargs=options, batch_format="pyarrow", num_cpus=1, **pool
    )
    assert found.take_all()[0]["threads"] == 1


def test_a_model_that_cannot_be_loaded_is_one_line(start, corpus, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    job = start(corpus, "-o", tmp_path / "out", "--model", "bge-base-zh", "--path", empty)
    said = job.communicate(timeout=90)[1]
    assert job.returncode == 2
    assert str(empty) in said
    assert "Traceback" not in said


def test_a_cluster_without_a_free_cpu_is_said_and_waited_for(
    cluster, corpus, flags, tmp_path, expected, capsys, monkeypatch
):
    class Holder:
        def hold(self):
            return True

    holder = cluster.remote(Holder).options(num_cpus=2).remote()
    assert cluster.get(holder.hold.remote())
    monkeypatch.setattr(run, "_PATIENCE", 1.0)
    threading.Timer(4.0, cluster.kill, args=(holder,)).start()
    output = tmp_path / "out"
    assert main(["embed", str(corpus), "-o", str(output), *flags, "--ray", "--workers", "2"]) == 0
    assert "no CPU that is free" in capsys.readouterr().err
    assert_once(output, expected)


def test_a_local_cluster_ends_with_its_command(corpus, flags, tmp_path, expected, capsys):
    assert main(["embed", "-", "-o", "x", "--ray", "local"]) == 2
    assert "not standard input" in capsys.readouterr().err
    output = tmp_path / "out"
    command = [sys.executable, "-m", "zh_retrieval.cli.main", "embed", str(corpus), "-o", str(output), *flags]
    job = subprocess.Popen([*command, "--ray", "local", "--workers", "2"], stderr=subprocess.PIPE, encoding="utf-8")
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert_once(output, expected)
    time.sleep(1)
    left = [process for process in psutil.process_iter() if process.ppid() == job.pid]
    assert left == []


def test_a_local_cluster_that_dies_ends_its_command_and_another_one_goes_on(corpus, flags, faults, tmp_path, expected):
    output = tmp_path / "out"
    (faults / "slow").touch()
    command = [sys.executable, "-m", "zh_retrieval.cli.main", "embed", str(corpus), "-o", str(output), *flags]
    command += ["--ray", "local", "--workers", "1", "--part-rows", "100"]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    wait_for(lambda: parts(output) >= 2, job)
    (raylet,) = [child for child in psutil.Process(job.pid).children() if child.name() == "raylet"]
    raylet.kill()
    _, said = job.communicate(timeout=100)
    assert job.returncode == 1
    assert "no machine of the cluster lives any more" in said
    (faults / "slow").unlink()
    kept = parts(output)
    assert main([*command[3:-2], "--part-rows", "100"]) == 0
    assert kept >= 2
    assert_once(output, expected)
