"""A process that waits for another's download says so, once."""

import logging
import threading

import pytest

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
