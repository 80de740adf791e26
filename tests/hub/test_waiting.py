"""A process that waits for another's download says so, once."""

import logging
import os
import subprocess
import sys
import threading

import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub.lock import exclusive
from zh_retrieval.hub.snapshot import PLAN, Manifest, this_process

OTHER = "process 4711 on elsewhere"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    return folder


@pytest.fixture
def held(folder):
    """Return the event that ends another thread's hold of the lock."""
    held, over = threading.Event(), threading.Event()

    def hold():
        with exclusive(folder, "m", False):
            held.set()
            over.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    yield over
    over.set()
    thread.join()


def wait_for(folder, over, show_progress=False):
    timer = threading.Timer(0.4, over.set)
    timer.start()
    with exclusive(folder, "m", show_progress, patience=0.05):
        assert over.is_set()
    timer.join()


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name.startswith("zh_")]


@pytest.mark.parametrize(
    ("writer", "named"),
    [(OTHER, OTHER), (None, "another process"), (this_process(), "another thread of this process")],
    ids=["named", "not yet named", "ours"],
)
def test_who_waits_says_once_for_whom_and_for_which_lock(folder, held, caplog, writer, named):
    Manifest("modelscope", "o/n", None, (), writer=writer).write(folder, PLAN)
    caplog.set_level(logging.INFO, "zh_retrieval")
    wait_for(folder, held)
    assert messages(caplog) == [
        ("WARNING", f"m is being downloaded by {named}: waiting for it (lock {folder}.lock)"),
        ("INFO", f"m: waited for {named}, going on"),
    ]


def test_a_bar_says_it_where_one_is_shown(folder, held, capsys):
    Manifest("modelscope", "o/n", None, (), writer=OTHER).write(folder, PLAN)
    wait_for(folder, held, show_progress=True)
    assert f"m: waiting for {OTHER} [00:0" in capsys.readouterr().err


def test_who_need_not_wait_says_nothing(folder, caplog, capsys):
    caplog.set_level(logging.DEBUG, "zh_retrieval")
    with exclusive(folder, "m", True):
        pass
    assert messages(caplog) == []
    assert capsys.readouterr().err == ""


CHILD = """
import sys
import zh_retrieval as zr
from zh_retrieval.hub import download
print(download.fetch(zr.get_spec(sys.argv[1]), cache_dir=sys.argv[2]))
"""


@pytest.mark.slow
def test_the_second_of_two_processes_names_the_first(tmp_path, monkeypatch):
    spec = zr.get_spec("bge-large-zh")
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    content = {file.name: file.read_bytes() for file in tiny_bert(tmp_path / "published").iterdir()}
    with serve(Stub({spec.sources[0].id: content}, delay=2.5)) as stub:
        command = [sys.executable, "-c", CHILD, spec.name, str(tmp_path)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MODELSCOPE_ENDPOINT": stub.url}
        start = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
        both = [subprocess.Popen(command, **start) for _ in range(2)]
        said = [process.communicate(timeout=60) for process in both]
    assert said[0][0] == said[1][0] != ""
    waited = [f"is being downloaded by process {both[1 - number].pid} on " in said[number][1] for number in range(2)]
    assert sorted(waited) == [False, True]
