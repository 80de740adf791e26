"""Forks, pools and the end of the interpreter: what a program that computes here and elsewhere gets."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import tiny_bert

PROGRAM = """
import multiprocessing, os, sys, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import zh_retrieval as zr

warnings.simplefilter("ignore")  # of forks in a program with threads
FOLDER, METHODS = sys.argv[1], sys.argv[2:]
TEXTS = ["今天气很好", "我们去公园散步", "的一是"]

def load():
    return zr.load_encoder("bge-large-zh", path=FOLDER, device="cpu", dtype="float32")

def encode(text):
    with load() as encoder:
        return encoder.encode_documents([text])[0]

def same(vectors):
    return np.allclose(list(vectors), BEFORE, atol=1e-5)

if __name__ == "__main__":
    with load() as encoder:
        BEFORE = encoder.encode_documents(TEXTS)
        for method in METHODS:
            if method == "child":
                child = os.fork()
                if child == 0:
                    os._exit(0 if same(encoder.encode_documents(TEXTS)) else 7)
                fine = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            else:
                with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
                    fine = same(pool.map(encode, TEXTS, timeout=100))
            fine = fine and same(encoder.encode_documents(TEXTS))
            print(method, "fine" if fine else "differs", flush=True)
    encoder = load()
    work = encoder._documents(["今天气很好" * 80 + str(n) for n in range(2000)])
    future = encoder._model.scheduler.submit(work.prepare(0, 2000))
    print("queued" if not future.done() else "computed", flush=True)
"""


def run(folder: Path, *methods: str) -> "subprocess.CompletedProcess[str]":
    program = folder / "program.py"  # spawn imports the main program again, so it must be a file
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(program), str(tiny_bert(folder / "bert")), *methods]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """Return what a program with a forked child, a pool of forked workers and work left at its end has done."""
    return run(tmp_path_factory.mktemp("forked"), "child", "fork")


@pytest.mark.parametrize("method", ["child", "fork"])
def test_forked_processes_compute_the_same_vectors_and_so_does_their_parent(forked, method):
    assert f"{method} fine" in forked.stdout.splitlines(), forked.stderr


def test_exit_with_work_queued_neither_hangs_nor_complains(forked):
    assert forked.stdout.splitlines()[-1:] == ["queued"]
    assert (forked.returncode, forked.stderr) == (0, "")


@pytest.mark.slow
def test_spawned_processes_compute_the_same_vectors(tmp_path):
    spawned = run(tmp_path, "spawn")
    assert "spawn fine" in spawned.stdout.splitlines(), spawned.stderr
