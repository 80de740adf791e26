"""Forks, pools and the end of the interpreter, with the built-in model."""

import subprocess
import sys

import pytest


def run_child(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_exit_with_work_queued_neither_hangs_nor_complains():
    result = run_child("""
import zh_retrieval as zr
encoder = zr.load_encoder("e5-small-zh", device="cpu", dtype="float32")
work = encoder._documents(["今天天气很好" * 40 + str(n) for n in range(400)])
future = encoder._model.scheduler.submit(work.prepare(0, 400))
""")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_computes_the_same_vectors():
    result = run_child("""
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, zh_retrieval as zr
encoder = zr.load_encoder("e5-small-zh", device="cpu", dtype="float32")
before = encoder.encode_documents(["你好", "今天天气很好"])
pid = os.fork()
if pid == 0:
    os._exit(0 if np.allclose(encoder.encode_documents(["你好", "今天天气很好"]), before, atol=1e-5) else 7)
assert os.waitpid(pid, 0)[1] == 0
assert np.allclose(encoder.encode_documents(["你好", "今天天气很好"]), before, atol=1e-5)
print("fine")
""")
    assert result.stdout.strip() == "fine", result.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_pools_compute_the_same_vectors(method, tmp_path):
    program = tmp_path / "program.py"  # spawn imports the main program again, so it must be a file
    program.write_text(f"""
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np, zh_retrieval as zr
warnings.simplefilter("ignore")
def encode(text):
    with zr.load_encoder("e5-small-zh", device="cpu", dtype="float32") as encoder:
        return encoder.encode_documents([text])[0]
if __name__ == "__main__":
    texts = ["你好", "今天天气很好", "绿茶"]
    before = [encode(text) for text in texts]
    with ProcessPoolExecutor(2, multiprocessing.get_context({method!r})) as pool:
        assert np.allclose(list(pool.map(encode, texts)), before, atol=1e-5)
    print("fine")
""")
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "fine", result.stderr
