"""Downloads through the real Hugging Face client, from a stub on loopback."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

import zh_retrieval as zr
from tests.huggingface_stub import HuggingFaceStub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub import download
from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.snapshot import MANIFEST, read_manifest, verify
from zh_retrieval.recipes.spec import Source

ID = "BAAI/bge-large-zh-v1.5"
SPEC = replace(zr.get_spec("bge-large-zh"), sources=(Source("huggingface", ID),))
COMMIT, OLDER = "a" * 40, "b" * 40
WEIGHTS = "model.safetensors"
WANTED = ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_bert(tmp_path_factory.mktemp("published"))
    return {file.name: file.read_bytes() for file in folder.iterdir()} | {"README.md": b"# readme"}


@pytest.fixture
def stub(files, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    branches = {"main": COMMIT, "v1": OLDER}
    with serve(HuggingFaceStub({ID: {COMMIT: dict(files), OLDER: dict(files)}}, branches)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the user's environment says
        yield running


def fetch(tmp_path, pauses, **options):
    return download.fetch(SPEC, cache_dir=tmp_path / "cache", policy=pauses.policy, **options)


def taken(stub):
    return sorted({path for _, path, _ in stub.requests if path})


def assert_whole(folder, files):
    assert verify(folder) == []
    assert all((folder / name).read_bytes() == files[name] for name in WANTED)


def test_only_what_a_model_needs_is_downloaded_at_the_commit_of_the_branch(stub, tmp_path, files, pauses):
    folder = fetch(tmp_path, pauses)
    assert_whole(folder, files)
    assert taken(stub) == WANTED
    assert {revision for revision, path, _ in stub.requests if path} == {COMMIT}
    assert json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["commit"] == COMMIT


def test_files_come_at_the_same_time(stub, tmp_path, files, pauses):
    stub.meeting = threading.Barrier(len(WANTED), timeout=20)  # breaks unless all are asked for together
    assert_whole(fetch(tmp_path, pauses), files)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("path", ["", WEIGHTS], ids=["listing", "file"])
def test_passing_server_errors_are_tried_again(stub, tmp_path, files, pauses, path, status):
    stub.fail = {path: [status]}
    assert_whole(fetch(tmp_path, pauses), files)


def test_a_cut_download_asks_for_the_rest_only(stub, tmp_path, files, pauses, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # a cut costs one chunk: 10 MB
    half = len(files[WEIGHTS]) // 2
    stub.cut[WEIGHTS] = [half]
    assert_whole(fetch(tmp_path, pauses), files)
    assert [asked for _, path, asked in stub.requests if path == WEIGHTS] == [None, f"bytes={half // 1000 * 1000}-"]


def test_wrong_bytes_are_an_error_and_no_snapshot(stub, tmp_path, files, pauses):
    stub.corrupt.add(WEIGHTS)
    with pytest.raises(zr.DownloadError, match=rf"{WEIGHTS} of bge-large-zh-v1\.5 .* is not what the hub lists"):
        fetch(tmp_path, pauses)
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "partial"
    stub.corrupt.clear()
    assert_whole(fetch(tmp_path, pauses), files)


def test_a_file_that_stays_broken_is_named_and_the_others_stay(stub, tmp_path, files, pauses):
    stub.fail = {WEIGHTS: [500] * 99}
    with pytest.raises(zr.DownloadError, match=rf"huggingface {ID} could not be fetched after 4 tries: {WEIGHTS}"):
        fetch(tmp_path, pauses)
    assert len(pauses.made) >= 3
    stub.fail.clear()
    stub.requests.clear()
    assert_whole(fetch(tmp_path, pauses), files)


@pytest.mark.parametrize("revision", [None, "no-such-branch"])
def test_what_does_not_exist_is_named(stub, tmp_path, pauses, revision):
    if revision is None:
        stub.repositories.clear()
    with pytest.raises(zr.DownloadError, match=rf"No source has {SPEC.name}.*huggingface {ID}: it does not exist"):
        fetch(tmp_path, pauses, revision=revision)
    assert pauses.made == []


def test_a_branch_and_a_tag_are_kept_apart(stub, tmp_path, pauses):
    main, tag = fetch(tmp_path, pauses), fetch(tmp_path, pauses, revision="v1")
    assert main != tag
    assert [read_manifest(folder).commit for folder in (main, tag)] == [COMMIT, OLDER]


def test_our_bar_counts_every_byte_once(stub, tmp_path, files, pauses, capsys, monkeypatch):
    stub.cut[WEIGHTS] = [len(files[WEIGHTS]) // 2]
    counted = []
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, n=1: counted.append(n))
    fetch(tmp_path, pauses, show_progress=True)
    assert sum(counted) == sum(len(files[name]) for name in WANTED)
    drawn = capsys.readouterr().err
    assert SPEC.name in drawn
    assert WEIGHTS not in drawn


def test_the_clients_own_offline_switch_is_no_fault_that_passes(stub, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(zr.DownloadError, match="after 1 try: OfflineModeIsEnabled"):
        fetch(tmp_path, pauses)
    assert pauses.made == []


def test_bars_that_the_client_draws_twice_for_a_file_count_once(stub, tmp_path, files, pauses, monkeypatch):
    def fetch_with_two_bars(id, path, *, local_dir, tqdm_class, **_):
        size = len(files[path])
        for bar in [tqdm_class(total=size, desc=desc) for desc in ("reconstructing", "downloading")]:
            bar.update(size // 2)
            bar.update(-(size // 2))  # begun anew
            bar.update(size)
            bar.close()
        (local_dir / path).write_bytes(files[path])

    counted = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch_with_two_bars)
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, n=1: counted.append(n))
    assert_whole(fetch(tmp_path, pauses, show_progress=True), files)
    assert sum(counted) == sum(len(files[name]) for name in WANTED)


CHILD = """
import sys
from dataclasses import replace
import zh_retrieval as zr
from zh_retrieval.hub import download
from zh_retrieval.recipes.spec import Source
spec = replace(zr.get_spec("bge-large-zh"), sources=(Source("huggingface", sys.argv[1]),))
download.fetch(spec, cache_dir=sys.argv[2])
"""


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_a_silent_hub(stub, tmp_path):
    stub.delay = 60
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, ID, str(tmp_path / "cache")], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not taken(stub):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert error.splitlines()[-1] == "KeyboardInterrupt"
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "partial"
