"""One local cluster for all tests of a run, and the command in processes that can be killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import tiny_bert

FAULTY = Path(__file__).parent / "faulty"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Yield Ray, connected to a cluster of two CPUs whose disk obeys files in `faults`."""
    ray = pytest.importorskip("ray")
    faults = tmp_path_factory.mktemp("faults")
    before = dict(os.environ)
    os.environ["ZH_RETRIEVAL_TEST_FAULTS"] = str(faults)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FAULTY), *filter(None, [before.get("PYTHONPATH")])])
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    ray.test_faults = faults
    try:
        yield ray
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def faults(cluster):
    """Return the folder whose files `slow` and `full` say how the disk is."""
    yield cluster.test_faults
    for file in cluster.test_faults.iterdir():
        file.unlink()


@pytest.fixture(scope="session")
def flags(tmp_path_factory):
    """Return the flags of a tiny model."""
    folder = tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")
    return ["--model", "bge-base-zh", "--path", str(folder), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def start(cluster):
    """Return what starts `zh-retrieval embed --ray` on the cluster in a process of its own."""
    running = []

    def begin(*arguments):
        address = cluster.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "zh_retrieval.cli.main", "embed", *map(str, arguments), "--ray", address]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8"))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()
