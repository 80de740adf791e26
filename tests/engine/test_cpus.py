"""How many threads compute where affinity and cgroups give a process less than the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zh_retrieval as zr
from zh_retrieval.engine.cpus import cpu_quota, usable_cpus


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/user/job\n", {"user/job/cpu.max": "150000 100000\n", "user/cpu.max": "max 100000\n"}, 1.5),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "200000 100000\n"}, 2),  # of a parent
        ("0::/user/job\n", {"user/job/cpu.max": "400000 100000\n", "user/cpu.max": "300000 100000\n"}, 3),
        ("0::/../../elsewhere\n", {"cpu.max": "100000 100000\n"}, 1),  # a container sees its own cgroup as the root
        ("5:cpuset:/a\n4:cpu,cpuacct:/a\n",
         {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_the_cgroup_and_those_around_it(tmp_path, cgroup, files, expected):
    of_process = tmp_path / "cgroup"
    of_process.write_text(cgroup, encoding="utf-8")
    assert cpu_quota(tree(tmp_path / "fs", files), of_process) == expected


def test_no_cgroups_are_no_limit(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (0.5, 1), (2.9, 2), (16.0, 4)])
def test_threads_follow_affinity_and_quota(monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 6}, raising=False)
    monkeypatch.setattr("zh_retrieval.engine.cpus.cpu_quota", lambda: quota)
    assert usable_cpus() == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_held_to_one_cpu_computes_with_one_thread():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import zh_retrieval as zr
encoder = zr.load_encoder("e5-small-zh", device="cpu")
print(encoder._model.engine._settings.threads)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"


def test_the_option_says_how_many_threads_compute_and_leaves_those_of_torch_alone():
    import torch

    before = torch.get_num_threads()
    with zr.load_encoder("e5-small-zh", device="cpu", threads=1, private=True) as encoder:
        encoder.encode_documents(["好"])
        compiled = encoder._model.engine._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert torch.get_num_threads() == before
