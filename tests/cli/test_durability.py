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
from zh_retrieval.cli.main import main

KILLS = int(os.environ.get("ZH_RETRIEVAL_KILLS", "6"))  # over both commands; `make durability` makes 50
LINES = 8200 if KILLS > 6 else 4200  # of an embed job: five windows, or three, so that one is neither first nor last
FLAGS = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def bert_flags(tmp_path_factory):
    return ["--model", "bge-large-zh", "--path", str(tiny_bert(tmp_path_factory.mktemp("bert"))), *FLAGS]


@pytest.fixture(scope="module")
def xlmr_flags(tmp_path_factory):
    return ["--path", str(tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))), *FLAGS]


FORKS = """
import json, os, resource, sys
import pyarrow.parquet, torch, transformers, zh_retrieval.files.writing.vectors, zh_retrieval.loading  # takes seconds
from transformers import BertModel, XLMRobertaForSequenceClassification
from zh_retrieval.cli.main import main
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
    source.write_text("".join(f"第{number}行文字，{number * 7919}\n" for number in range(LINES)), encoding="utf-8")
    return ["embed", source, *flags]


def rerank_job(folder, flags):
    source = folder / "in.jsonl"
    rows = [{"query": f"问题{n}", "documents": [f"第{n}段文字{k}" for k in range(6)]} for n in range(200)]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return ["rerank", source, *flags]


def windows(staging):
    return len(list(staging.glob("*.part")))


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_second_job_with_one_output_says_so_and_leaves_the_first_alone(tmp_path, commands, bert_flags, capsys):
    job = embed_job(tmp_path, bert_flags)
    whole, output, staging = (tmp_path / name for name in ("whole.jsonl", "out.jsonl", "out.jsonl.partial"))
    child = commands.start([*job, "-o", output])
    while not (staging / "job.json").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGSTOP)  # it holds its output, whatever else is running here
    for more in ([], ["--restart"]):
        assert main([*map(str, job), "-o", str(output), *more]) == 2
        assert f"Another process is writing {output}" in capsys.readouterr().err
    os.kill(child, signal.SIGCONT)
    assert commands.finish()[0] == 0
    assert not staging.exists()
    assert commands.run([*job, "-o", whole])[0] == 0
    assert output.read_bytes() == whole.read_bytes()


# --- out of disk ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_a_full_disk_is_one_line_and_no_half_output(tmp_path, commands, bert_flags, suffix):
    source, output, whole = (tmp_path / name for name in ("in.txt", f"out.{suffix}", f"whole.{suffix}"))
    source.write_text("".join(f"{number}\n" for number in range(6000)), encoding="utf-8")  # some windows
    assert commands.run(["embed", source, "-o", whole, *bert_flags])[0] == 0
    arguments = ["embed", source, "-o", output, *bert_flags]
    rooms = {"at once": 300, "in a window": 9000, "while joining": whole.stat().st_size - 1000}
    for moment, room in rooms.items():
        status, error = commands.run(arguments, room=room)
        assert status == 2, moment
        assert re.fullmatch(r"zh-retrieval: .*File too large.*run the same command again\.\n", error)
        assert not output.exists()
        assert windows(tmp_path / f"{output.name}.partial") > 0 or moment != "while joining"
    assert commands.run(arguments)[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    beside = [f"{name}.npy.ids" for name in ("out", "whole")] if suffix == "npy" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.txt", output.name, whole.name, *beside])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_a_full_standard_output_is_one_line(tmp_path, commands, bert_flags, xlmr_flags, command):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "天气", "query": "茶", "documents": ["绿茶"]}\n', encoding="utf-8")
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


# --- broken lines --------------------------------------------------------------------------------------------------

BROKEN = {  # what is wrong -> a line of an embed job, a line of a rerank job, what is said about it
    "invalid JSON": (b'{"text": ', b'{"query": ', "not valid JSON"),
    "nested too deep": (b"[" * 100_000, b"[" * 100_000, "not valid JSON"),
    "no object": (b"[1]", b"7", "expected a JSON object"),
    "invalid UTF-8": (b'{"text": "\xc4\xe3"}', b'{"query": "\xc4\xe3", "documents": []}', "byte 0xc4 at character 1"),
    "a missing field": (b'{"txt": "a"}', b'{"query": "a"}', "field '"),
    "a wrong type": (b'{"text": 3}', b'{"query": "a", "documents": "b"}', "expected "),
    "null": (b'{"text": null}', b'{"query": null, "documents": []}', "is NoneType"),
    "a wrong title": (
        b'{"text": "a", "title": 3}', b'{"query": "a", "documents": ["b", {"text": "c", "title": ["d"]}]}', "title",
    ),
    "a document that is none": (b'{"text": []}', b'{"query": "a", "documents": ["b", {"id": 1}]}', "expected str"),
    "a lone surrogate": (b'{"text": "\\ud800"}', b'{"query": "a", "documents": ["\\udc00"]}', "lone surrogate"),
    "a byte order mark inside": (b"\xef\xbb\xbf{}", b"\xef\xbb\xbf{}", ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_a_broken_line_is_named_by_its_number(tmp_path, bert_flags, xlmr_flags, capsys, command, broken):
    line, said = BROKEN[broken][command == "rerank"], BROKEN[broken][2]
    good = b'{"text": "\xe8\x8c\xb6", "query": "\xe8\x8c\xb6", "documents": ["a", {"text": "b"}]}'
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([good, b"", b"  ", line, good, line, b""]))
    arguments = [command, str(source), "-o", str(output), *(bert_flags if command == "embed" else xlmr_flags)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"zh-retrieval: line 4 of {source}: ")
    assert said in error
    assert error.count("\n") == 1
    assert not output.exists()
    assert main([*arguments, "--on-error", "skip"]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert [re.match(r"zh-retrieval: skipped line (\d+) of ", error)[1] for error in errors[:2]] == ["4", "6"]
    assert errors[2] == "zh-retrieval: 2 lines were skipped"
    assert len(output.read_bytes().splitlines()) == 2


def test_broken_lines_of_a_run_are_named_or_skipped(tmp_path, xlmr_flags, capsys):
    queries, corpus, run = (tmp_path / name for name in ("q.jsonl", "c.jsonl", "run.txt"))
    queries.write_bytes(b'{"id": "q1", "text": "a"}\n{"id": "q2", "text": 3}\n')
    corpus.write_bytes(b'{"id": "d1", "text": "a"}\n\xff\n')
    run.write_bytes(b"q1 Q0 d1 1 3.5 x\nq1 Q0 d1\nq2 Q0 d1 1 2 x\n\xff Q0 d1 1 2 x\n\n")
    arguments = ["rerank", "--run", str(run), "--queries", str(queries), "--corpus", str(corpus), *xlmr_flags]
    arguments += ["-o", str(tmp_path / "out.txt")]
    assert main(arguments) == 2
    assert f"line 2 of {queries}" in capsys.readouterr().err
    assert main([*arguments, "--on-error", "skip"]) == 0
    found = re.findall(r"skipped line (\d) of \S+/(\S+):", capsys.readouterr().err)
    assert found == [("2", "q.jsonl"), ("2", "c.jsonl"), ("2", "run.txt"), ("3", "run.txt"), ("4", "run.txt")]
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").startswith("q1 Q0 d1 1 ")
    run.unlink()
    assert main([*arguments, "--on-error", "skip"]) == 2
    assert "is not a file" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_odd_fields_come_out_as_they_went_in(tmp_path, bert_flags, xlmr_flags, suffix):
    source, output = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    row = {"embedding": [1], "id": "\ud800", "text": "a\0b", "query": "茶", "documents": [{"text": "b", "x": "\udfff"}]}
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(["embed", str(source), "-o", str(output), *bert_flags]) == 0
    if suffix == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(output).column("id").to_pylist() == ["\\ud800"]
        return
    found = json.loads(output.read_bytes())
    assert len(found.pop("embedding")) == 64
    assert found == {name: value for name, value in row.items() if name != "embedding"}
    assert main(["rerank", str(source), "-o", str(tmp_path / "ranked.jsonl"), *xlmr_flags]) == 0
    ranked = json.loads((tmp_path / "ranked.jsonl").read_bytes())
    assert ranked["id"] == "\ud800"
    assert ranked["documents"][0]["x"] == "\udfff"


def test_input_files_may_have_any_name(tmp_path, bert_flags):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xc4\xe3.txt")  # GBK, not UTF-8
    try:
        with open(source, "w", encoding="utf-8") as stream:
            stream.write("天气\n")
    except OSError:
        pytest.skip("this filesystem takes UTF-8 names only")
    assert main(["embed", source, "-o", str(tmp_path / "out.jsonl"), *bert_flags]) == 0
