"""Long jobs of the command line: killed, out of disk, and fed with broken lines."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli import main

KILLS = int(os.environ.get("ZH_RETRIEVAL_KILLS", "6"))  # over both commands; `make durability` makes 50
FLAGS = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def bert_flags(tmp_path_factory):
    return ["--model", "bge-large-zh", "--path", str(tiny_bert(tmp_path_factory.mktemp("bert"))), *FLAGS]


@pytest.fixture(scope="module")
def xlmr_flags(tmp_path_factory):
    return ["--path", str(tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))), *FLAGS]


FORKS = """
import json, os, resource, sys
import pyarrow.parquet, torch, transformers, zh_retrieval.commands.vectors, zh_retrieval.loading  # takes seconds
from transformers import BertModel, XLMRobertaForSequenceClassification
from zh_retrieval.cli import main
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for name, stream in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            if job["room"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (job["room"], job["room"]))
            status = main(job["arguments"])
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs `zh-retrieval` in processes that are forked from one that has imported everything: quick to start."""

    def __init__(self, folder):
        self.error = folder / "stderr"
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, arguments, **options):
        """Run a command to its end; return what `finish` returns."""
        self.start(arguments, **options)
        return self.finish()

    def start(self, arguments, *, room=None, stdout=os.devnull):
        """Start a command and return its process id; files may have `room` bytes."""
        job = {"arguments": [str(argument) for argument in arguments], "room": room, "stdout": stdout}
        self.process.stdin.write(json.dumps(job | {"stderr": str(self.error)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self):
        """Return the exit status, negative for a signal, and what was printed to stderr."""
        return int(self.process.stdout.readline()), self.error.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    running = Commands(tmp_path_factory.mktemp("commands"))
    yield running
    running.process.communicate(timeout=60)


# --- killed --------------------------------------------------------------------------------------------------------


def embed_job(folder, flags):
    source = folder / "in.txt"
    source.write_text("".join(f"第{number}行文字，{number * 7919}\n" for number in range(8200)), encoding="utf-8")
    return ["embed", source, *flags]


def rerank_job(folder, flags):
    source = folder / "in.jsonl"
    rows = [{"query": f"问题{n}", "documents": [f"第{n}段文字{k}" for k in range(6)]} for n in range(200)]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return ["rerank", source, *flags]


def windows(staging):
    return sum(part.name.isdigit() for part in staging.iterdir()) if staging.is_dir() else 0


@pytest.mark.parametrize(("command", "kills"), [("embed", KILLS - KILLS // 2), ("rerank", KILLS // 2)])
def test_killed_anywhere_a_job_resumes_to_the_same_bytes(tmp_path, commands, bert_flags, xlmr_flags, command, kills):
    job = embed_job(tmp_path, bert_flags) if command == "embed" else rerank_job(tmp_path, xlmr_flags)
    whole, output, staging = (tmp_path / name for name in ("whole.jsonl", "out.jsonl", "out.jsonl.partial"))
    begun = time.monotonic()
    assert commands.run([*job, "-o", whole])[0] == 0
    work = time.monotonic() - begun
    rng = random.Random(len(command))
    done = resumed = completed = 0
    while done < kills:
        child = commands.start([*job, "-o", output])
        time.sleep(rng.uniform(0, work))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if commands.finish()[0] == -signal.SIGKILL:
            done += 1
            resumed += windows(staging) > 0
            assert not output.exists() or output.read_bytes() == whole.read_bytes()
        else:  # it was quicker: the next kills hit a new job
            completed += 1
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()
    assert commands.run([*job, "-o", output])[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([job[1].name, "out.jsonl", "whole.jsonl"])
    print(f"{command}: {done} kills, after {resumed} of them windows were taken over; {completed} runs were not hit")


def test_windows_without_a_job_are_not_taken_over(tmp_path, bert_flags):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("天气\n", encoding="utf-8")
    staging = tmp_path / "out.jsonl.partial"
    staging.mkdir()
    (staging / "00000000").write_text("of a job that was killed while its folder was cleared\n", encoding="utf-8")
    assert main(["embed", str(source), "-o", str(output), *bert_flags]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["text"] == "天气"
    assert not staging.exists()


# --- out of disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_a_full_disk_is_one_line_and_no_half_output(tmp_path, commands, bert_flags, suffix):
    source, output, whole = (tmp_path / name for name in ("in.txt", f"out.{suffix}", f"whole.{suffix}"))
    source.write_text("".join(f"{number}\n" for number in range(2100)), encoding="utf-8")  # two windows
    assert commands.run(["embed", source, "-o", whole, *bert_flags])[0] == 0
    arguments = ["embed", source, "-o", output, *bert_flags]
    rooms = {"at once": 300, "in a window": 9000, "while joining": whole.stat().st_size - 1000}
    for moment, room in rooms.items():
        status, error = commands.run(arguments, room=room)
        assert status == 2, moment
        assert re.fullmatch(r"zh-retrieval: .*File too large.*run the same command again\.\n", error)
        assert not output.exists()
        if moment == "while joining":
            assert windows(tmp_path / f"{output.name}.partial") == 2
    assert commands.run(arguments)[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", output.name, whole.name]


@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_a_full_standard_output_is_one_line(tmp_path, commands, bert_flags, xlmr_flags, command):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "茶", "query": "茶", "documents": ["绿茶"]}\n', encoding="utf-8")
    flags = bert_flags if command == "embed" else xlmr_flags
    status, error = commands.run([command, source, *flags, "-o", "-"], stdout="/dev/full")
    assert status == 2
    assert re.fullmatch(r"zh-retrieval: .*No space left on device.*\n", error)


def test_a_folder_as_output_is_refused_before_any_work(tmp_path, bert_flags, capsys):
    source, output = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("天气\n", encoding="utf-8")
    output.mkdir()
    assert main(["embed", str(source), "-o", str(output), *bert_flags]) == 2
    assert "is a folder" in capsys.readouterr().err
