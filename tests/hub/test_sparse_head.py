"""`sparse_linear.pt` comes with bge-m3; a snapshot of an earlier version gets it when it is asked for."""

import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bge_m3
from zh_retrieval.hub import download
from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.snapshot import SPARSE_HEAD, verify

SPEC = zr.get_spec("bge-m3")
NAME = SPEC.sources[0].id


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_bge_m3(tmp_path_factory.mktemp("published"))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_head_is_downloaded_and_verified_also_where_a_snapshot_lacks_it(files, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    without = {name: content for name, content in files.items() if name != SPARSE_HEAD}
    cache = tmp_path / "cache"
    with serve(Stub({NAME: without})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        folder = download.fetch(SPEC, cache_dir=cache)
        assert not (folder / SPARSE_HEAD).exists()
    assert locate(SPEC, cache_dir=cache).status == "present"
    assert locate(SPEC, cache_dir=cache, also=(SPARSE_HEAD,)).status == "partial"
    with serve(Stub({NAME: dict(files)})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        assert download.fetch(SPEC, cache_dir=cache) == folder  # dense vectors need nothing
        assert [path for path, _ in running.requests if path] == []
        assert download.fetch(SPEC, cache_dir=cache, also=(SPARSE_HEAD,)) == folder
        assert {path for path, _ in running.requests if path} == {SPARSE_HEAD}
    assert (folder / SPARSE_HEAD).read_bytes() == files[SPARSE_HEAD]
    assert verify(folder) == []


def test_a_repository_without_the_head_says_so(files, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    without = {name: content for name, content in files.items() if name != SPARSE_HEAD}
    with serve(Stub({NAME: without})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        with pytest.raises(zr.DownloadError, match=r"sparse_linear\.pt"):
            download.fetch(SPEC, cache_dir=tmp_path / "cache", also=(SPARSE_HEAD,))
