"""What we rely on in the ModelScope client beyond its documented calls, and what happens where it is gone."""

import inspect
import sys
import threading

import modelscope_hub
import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub import download
from zh_retrieval.hub.snapshot import verify

SPEC = zr.get_spec("bge-large-zh")
CLIENT = sys.modules[modelscope_hub.TqdmCallback.__module__]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    folder = tiny_bert(tmp_path / "published")
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    with serve(Stub({SPEC.sources[0].id: {file.name: file.read_bytes() for file in folder.iterdir()}})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


def test_the_module_of_the_clients_bars_still_draws_with_a_global_tqdm():
    """Where this fails, the client's bars appear beside ours: look at `_without_bars`."""
    assert "tqdm" in vars(CLIENT)
    assert inspect.getmodule(modelscope_hub.HubApi(endpoint="http://127.0.0.1:9").downloader) is CLIENT


def test_only_public_names_of_the_client_are_imported():
    from zh_retrieval.hub import modelscope

    source = inspect.getsource(modelscope)
    assert "modelscope_hub._" not in source
    assert {"HubApi", "ProgressCallback", "TqdmCallback"} <= set(modelscope_hub.__all__)


def test_a_client_that_draws_in_another_way_still_downloads(stub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modelscope_hub.TqdmCallback, "__module__", "json")  # a module without a tqdm
    assert verify(download.fetch(SPEC, cache_dir=tmp_path / "cache", show_progress=True)) == []
    assert SPEC.name in capsys.readouterr().err


def test_a_client_without_a_call_that_we_need_is_named_at_once(stub, tmp_path, monkeypatch):
    monkeypatch.delattr(modelscope_hub.HubApi, "list_repo_files")
    with pytest.raises(zr.DownloadError, match=r"after 1 try: AttributeError: .*\(modelscope-hub \d"):
        download.fetch(SPEC, cache_dir=tmp_path / "cache")
    assert stub.requests == []


def test_two_downloads_at_once_leave_the_clients_bars_as_they_were(stub, tmp_path):
    before = CLIENT.tqdm
    stub.delay = 0.3
    seen = []

    def run(revision):
        download.fetch(SPEC, cache_dir=tmp_path / "cache", revision=revision)
        seen.append(CLIENT.tqdm)

    threads = [threading.Thread(target=run, args=(revision,)) for revision in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 2
    assert CLIENT.tqdm is before


def test_a_hub_that_is_down_is_not_asked_by_two_loops(stub, tmp_path, pauses):
    stub.fail = {"": [503] * 99}
    with pytest.raises(zr.DownloadError, match="after 4 tries"):
        download.fetch(SPEC, cache_dir=tmp_path / "cache", policy=pauses.policy)
    assert len(stub.requests) == 4


def test_a_file_that_outlasts_the_clients_time_limit_goes_on(stub, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(CLIENT, "DOWNLOAD_TOTAL_TIMEOUT", 0.5)  # an hour, in which a slow line cannot fetch a shard
    stub.stall["model.safetensors"] = [1000, 2000, 3000]
    assert verify(download.fetch(SPEC, cache_dir=tmp_path / "cache", policy=pauses.policy)) == []
    starts = [first for path, first in stub.requests if path == "model.safetensors"]
    assert starts == [None, "bytes=1000-", "bytes=3000-", "bytes=6000-"]
    assert [pause for pause in pauses.made if pause] == [0.5, 1.0, 2.0]
