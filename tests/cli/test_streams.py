"""Standard streams: UTF-8 whatever the locale says, answers as they come, and a standard error that is gone."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli.console import Progress, say
from zh_retrieval.cli.main import main
from zh_retrieval.files.reading.standard_input import live_lines

CPU = ["--device", "cpu", "--dtype", "float32"]
TEXT = "绿茶🍵ﷺ"


@pytest.fixture(scope="module")
def bert_flags(tmp_path_factory):
    return ["--model", "bge-large-zh", "--path", str(tiny_bert(tmp_path_factory.mktemp("bert"))), *CPU]


@pytest.fixture(scope="module")
def xlmr_flags(tmp_path_factory):
    return ["--path", str(tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))), *CPU]


class Terminal(io.BytesIO):
    """Bytes that say they are shown."""

    def isatty(self):
        return True


def run(monkeypatch, encoding, arguments, given=b"", out=io.BytesIO):
    """Run a command in a locale; return its status and the bytes of standard output and error."""
    raw = out(), io.BytesIO()
    for name, stream in zip(("stdout", "stderr"), raw, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding))
    status = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status, raw[0].getvalue(), raw[1].getvalue()


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp1252"])
def test_output_is_utf8_in_any_locale(tmp_path, monkeypatch, bert_flags, xlmr_flags, encoding):
    status, first, _ = run(monkeypatch, encoding, ["embed", "-", "-o", "-", *bert_flags], f"{TEXT}\n".encode())
    assert status == 0
    assert json.loads(first)["text"] == TEXT
    status, second, _ = run(monkeypatch, encoding, ["embed", "-", "-o", "-", *bert_flags], first)
    assert (status, second) == (0, first)
    pair = json.dumps({"query": TEXT, "documents": [TEXT]}, ensure_ascii=False).encode()
    status, ranked, _ = run(monkeypatch, encoding, ["rerank", "-", "-o", "-", *xlmr_flags], pair)
    assert (status, json.loads(ranked)["query"]) == (0, TEXT)
    (tmp_path / "a.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    demo = ["demo", "--input", str(tmp_path), "--query", TEXT, "--framework", "core", *bert_flags]
    status, shown, _ = run(monkeypatch, encoding, demo)
    assert status == 0
    assert TEXT in shown.decode("utf-8")
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    for command in (["models"], ["doctor", "--cache-dir", str(tmp_path / "缓存🍵")]):
        status, shown, _ = run(monkeypatch, encoding, command)
        assert status == 0
        assert "bge-base-zh-v1.5" in shown.decode("utf-8")
    assert "缓存🍵" in shown.decode("utf-8")
    status, _, error = run(monkeypatch, encoding, ["embed", f"{TEXT}.txt", "-o", "-", *bert_flags])
    assert status == 2
    assert f"zh-retrieval: {TEXT}.txt is not a file" in error.decode("utf-8")


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_a_terminal_gets_what_it_can_show(tmp_path, monkeypatch, bert_flags, encoding):
    (tmp_path / "a.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    demo = ["demo", "--input", str(tmp_path), "--query", TEXT, "--framework", "core", *bert_flags]
    status, shown, error = run(monkeypatch, encoding, demo, out=Terminal)
    assert (status, error) == (0, b"")
    assert TEXT.encode(encoding, "replace") in shown


@pytest.mark.slow
def test_a_real_locale_and_a_terminal_that_goes_away(tmp_path, bert_flags):
    source = tmp_path / "a.txt"
    source.write_text(f"{TEXT}\n\n", encoding="utf-8")
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "zh_retrieval.cli.main", "embed", source, "-o", tmp_path / "out.jsonl", *bert_flags],
        stderr=terminal, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    os.close(terminal)
    os.close(master)
    assert process.communicate(timeout=120)[0] == b""
    assert process.returncode == 0
    assert json.loads((tmp_path / "out.jsonl").read_bytes().splitlines()[0])["text"] == TEXT


# --- answers as they come ------------------------------------------------------------------------------------------


def test_lines_come_as_they_are_written_and_a_pause_is_said():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", 0) as source:
        lines = live_lines(stream)
        source.write(b"\xef\xbb\xbfa\r\n\xe8\x8c")
        assert [next(lines), next(lines)] == ["a\n", None]
        source.write(b"\xb6\n\n\xffb\nc")
        assert [next(lines) for _ in range(4)] == ["茶\n", "\n", "\udcffb\n", None]
        source.write(b"d")
        source.close()
        assert list(lines) == ["cd"]


@pytest.mark.parametrize("content", [b"", b"\n", b"a", b"a\rb\r", b"a\r\n\r\nb", b"\xe8\x8c", b"x" * 200_000 + b"\ny"])
def test_what_is_in_memory_is_read_as_a_text_file_is(tmp_path, content):
    (tmp_path / "in").write_bytes(content)
    with (tmp_path / "in").open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        assert list(live_lines(io.BytesIO(content))) == list(stream)


@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_an_answer_comes_before_the_next_question(monkeypatch, bert_flags, xlmr_flags, command):
    (asking, questions), (answers, answering) = os.pipe(), os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(asking, "rb"), "utf-8"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(answering, "wb"), "utf-8"))
    flags = bert_flags if command == "embed" else xlmr_flags
    worker = threading.Thread(target=main, args=([command, "-", "-o", "-", *flags],))
    worker.start()
    with os.fdopen(questions, "wb", 0) as ask, os.fdopen(answers, "rb") as hear:
        for number in range(3):
            row = {"text": f"茶{number}", "query": f"茶{number}", "documents": ["绿茶"]}
            ask.write(b"\n" * number + json.dumps(row).encode() + b"\n" * (1 + number))
            assert json.loads(hear.readline())["query"] == f"茶{number}"
        ask.close()
        worker.join(60)
        assert not worker.is_alive()
    sys.stdin.close()
    sys.stdout.close()


# --- no standard error ---------------------------------------------------------------------------------------------


class Breaking(io.StringIO):
    """A terminal that goes away after some writes."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def isatty(self):
        return True

    def write(self, text):
        if self.left == 0:
            raise OSError(5, "Input/output error")
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize("writes", [None, 0, 1, 3])
def test_without_standard_error_the_work_goes_on(tmp_path, monkeypatch, capsys, bert_flags, writes):
    monkeypatch.setattr(sys, "stderr", None if writes is None else Breaking(writes))
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"text": "a"}\n{broken\n{"text": "b"}\n')
    arguments = ["embed", str(source), "-o", str(output), "--on-error", "skip", *bert_flags]
    assert main(arguments) == 0
    assert len(output.read_bytes().splitlines()) == 2
    assert main(["embed", str(tmp_path / "none.txt"), "-o", str(output), *bert_flags]) == 2
    assert main([*arguments[:3], "-", *arguments[4:]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # nothing meant for standard error


def test_a_download_needs_no_standard_error(tmp_path, monkeypatch, capsys, bert_flags):
    files = {path.name: path.read_bytes() for path in Path(bert_flags[3]).iterdir() if path.is_file()}
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    with serve(Stub({"AI-ModelScope/bge-base-zh-v1.5": files})) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        assert main(["download", "bge-base-zh", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("bge-base-zh-v1.5\t")


def test_a_bar_moves_until_its_terminal_is_gone(monkeypatch):
    terminal = Breaking(8)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("text") as shown:
        shown.advance(3)
        terminal.left = 0
        for _ in range(100):
            shown.advance(100_000)
    say("nobody hears this")
    assert "text" in terminal.getvalue()
    assert "nobody" not in terminal.getvalue()
