"""A bar whose standard error is gone, or was never there, stops no download."""

import io
import threading

import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub import download
from zh_retrieval.hub.snapshot import verify
from zh_retrieval.progress import Bar

SPEC = zr.get_spec("bge-large-zh")


class Breaking(io.StringIO):
    """A stream that fails from its third write on, as a terminal does that is closed meanwhile."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.writes = error, 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes > 2:
            raise self.error
        return super().write(text)


STREAMS = {
    "none": lambda: None,
    "terminal closed": lambda: Breaking(OSError(5, "Input/output error")),
    "pipe broken": lambda: Breaking(BrokenPipeError(32, "Broken pipe")),
    "stream closed": lambda: Breaking(ValueError("I/O operation on closed file")),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_a_download_outlives_its_standard_error(tmp_path, monkeypatch, stream):
    content = {file.name: file.read_bytes() for file in tiny_bert(tmp_path / "published").iterdir()}
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    with serve(Stub({SPEC.sources[0].id: content})) as stub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
        monkeypatch.setattr("sys.stderr", stream())
        assert verify(download.fetch(SPEC, cache_dir=tmp_path / "cache", show_progress=True)) == []
    assert len([path for path, _ in stub.requests if path]) == len(content)


def test_a_round_that_begins_anew_does_not_count_twice(capsys):
    with Bar(True, total=100, unit="B") as bar:
        bar.start()(60)
        bar.start()(100)
    assert "100/100" in capsys.readouterr().err


def test_a_bar_that_breaks_leaves_other_bars_alone(monkeypatch, capsys):
    """tqdm keeps the lock that all bars share when a write fails."""
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Breaking(BrokenPipeError(32, "Broken pipe")))
        with Bar(True, total=100, mininterval=0) as bar:
            for _ in range(100):
                bar.advance(1)
        assert not bar.shown
    shown = []

    def other() -> None:
        with Bar(True, total=3) as bar:
            bar.advance(3)
        shown.append(bar)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    thread.join(20)
    assert shown
    assert "3/3" in capsys.readouterr().err
