"""Downloads through the real ModelScope client, from a stub on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub import download
from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.retry import RetryPolicy
from zh_retrieval.hub.snapshot import MANIFEST, is_safe, verify

SPEC = zr.get_spec("bge-large-zh")  # two ModelScope sources
FIRST, SECOND = (source.id for source in SPEC.sources[:2])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_bert(tmp_path_factory.mktemp("published"))
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    return content | {
        "modeling_evil.py": b"raise SystemExit",
        "onnx/model.onnx": b"x" * 1000,
        "README.md": b"# readme",
        "pytorch_model.bin": b"never taken beside safetensors",
    }


@pytest.fixture
def stub(files, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with serve(Stub({FIRST: dict(files)})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


def fetch(tmp_path, **options):
    options.setdefault("policy", RetryPolicy(sleep=lambda seconds: None))
    return download.fetch(SPEC, cache_dir=tmp_path / "cache", **options)


def taken(stub):
    return sorted({path for path, _ in stub.requests if path})


def test_only_what_a_model_needs_is_downloaded_and_the_manifest_names_it(stub, tmp_path, files):
    folder = fetch(tmp_path)
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert taken(stub) == wanted
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert sorted(file["path"] for file in manifest["files"]) == wanted
    assert all((folder / name).read_bytes() == files[name] for name in wanted)
    assert verify(folder) == []
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted([*wanted, MANIFEST])


def test_a_downloaded_model_encodes_like_the_published_folder(stub, tmp_path, tmp_path_factory):
    folder = fetch(tmp_path)
    published = tiny_bert(tmp_path_factory.mktemp("again"))
    with (
        zr.load_encoder("bge-large-zh", path=folder, device="cpu", dtype="float32") as ours,
        zr.load_encoder("bge-large-zh", path=published, device="cpu", dtype="float32") as theirs,
    ):
        np.testing.assert_array_equal(ours.encode_queries(["天气"]), theirs.encode_queries(["天气"]))


def test_a_downloaded_snapshot_of_another_size_is_refused(stub, tmp_path):
    with pytest.raises(zr.CheckpointError, match=r"hidden_size 64, but bge-large-zh-v1\.5 has 1024"):
        zr.load_encoder("bge-large-zh", cache_dir=tmp_path / "cache", device="cpu")


@pytest.mark.timing
def test_the_second_run_asks_no_network(stub, tmp_path):
    first = fetch(tmp_path)
    before = len(stub.requests)
    start = time.perf_counter()
    assert fetch(tmp_path) == first
    assert time.perf_counter() - start < 0.5
    assert len(stub.requests) == before


def test_a_complete_cache_works_when_the_hub_is_down(stub, tmp_path, monkeypatch):
    folder = fetch(tmp_path)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(tmp_path) == folder
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    assert fetch(tmp_path) == folder


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_cut_connection_resumes(stub, tmp_path, files, quarter):
    size = len(files["model.safetensors"])
    stub.cut["model.safetensors"] = [size * quarter // 4]
    folder = fetch(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    if quarter:
        assert any(asked for path, asked in stub.requests if path == "model.safetensors")


def test_a_server_that_ignores_ranges_gives_the_right_file(stub, tmp_path, files):
    stub.ranges = False
    stub.cut["model.safetensors"] = [1000]
    assert (fetch(tmp_path) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_wrong_bytes_are_an_error_and_no_snapshot(stub, tmp_path, pauses):
    stub.corrupt.add("model.safetensors")
    with pytest.raises(zr.DownloadError, match=r"bge-large-zh-v1\.5"):
        fetch(tmp_path)
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "partial"
    stub.corrupt.clear()
    assert verify(fetch(tmp_path)) == []


def test_a_wrong_size_in_the_listing_is_an_error(stub, tmp_path, pauses):
    stub.listing["vocab.txt"] = {"Size": 7, "Sha256": ""}
    with pytest.raises(zr.DownloadError):
        fetch(tmp_path)
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "partial"


def test_a_listing_without_hashes_is_recorded_with_ours(stub, tmp_path, files):
    stub.listing = {name: {"Sha256": ""} for name in files}
    folder = fetch(tmp_path)
    assert verify(folder) == []
    (folder / "vocab.txt").write_bytes(b"x" * len(files["vocab.txt"]))
    assert verify(folder) == ["vocab.txt: sha256 differs from the hub's"]


@pytest.mark.parametrize("status", [500, 429, 503])
def test_passing_server_errors_are_tried_again(stub, tmp_path, status):
    stub.fail = {"": [status], "config.json": [status]}
    assert verify(fetch(tmp_path)) == []


@pytest.mark.parametrize("status", [401, 403])
def test_forbidden_is_final_and_says_so(stub, tmp_path, status):
    stub.fail = {"": [status] * 99}
    with pytest.raises(zr.DownloadError, match="token"):
        fetch(tmp_path)
    assert len(stub.requests) < 10


def test_a_hub_that_stays_broken_ends_in_a_typed_error(stub, tmp_path):
    stub.fail = {"": [500] * 999}
    with pytest.raises(zr.DownloadError, match=r"the list of files of bge-large-zh-v1\.5 from modelscope .* 4 tries"):
        fetch(tmp_path)


def test_the_next_source_is_tried_when_a_repository_does_not_exist(stub, tmp_path, files):
    stub.repositories = {SECOND: dict(files)}
    folder = fetch(tmp_path)
    assert "AI-ModelScope--bge-large-zh-v1.5" in str(folder)
    assert locate(SPEC, cache_dir=tmp_path / "cache").source == SPEC.sources[1]


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_a_listing_that_points_outside_is_refused_before_anything_is_written(stub, tmp_path, path):
    stub.extra = [{"Name": "evil", "Path": path, "Type": "blob", "Size": 1, "Sha256": ""}]
    with pytest.raises(zr.DownloadError, match="outside the snapshot"):
        fetch(tmp_path)
    assert not is_safe(path)
    assert taken(stub) == []


def test_a_listing_with_nothing_useful_is_refused(stub, tmp_path):
    stub.repositories[FIRST] = {"README.md": b"hello", "config.json": b"{}"}
    with pytest.raises(zr.DownloadError, match="lists 2 files"):
        fetch(tmp_path)


def test_offline_says_what_is_missing(stub, tmp_path, monkeypatch):
    with pytest.raises(zr.DownloadError, match="no folder of it was found"):
        fetch(tmp_path, local_files_only=True)
    folder = fetch(tmp_path)
    (folder / "vocab.txt").unlink()
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "true")
    with pytest.raises(zr.DownloadError, match=r"lacks vocab\.txt"):
        fetch(tmp_path)


def test_a_failed_listing_leaves_no_folder_behind(stub, tmp_path):
    stub.repositories.clear()
    with pytest.raises(zr.DownloadError, match="huggingface"):
        fetch(tmp_path)
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "absent"


def test_a_listed_file_that_is_not_there_is_an_error_of_that_source(stub, tmp_path, files):
    stub.repositories[SECOND] = dict(files)
    stub.fail = {"model.safetensors": [404] * 99}
    with pytest.raises(zr.DownloadError, match="Xorbits"):
        fetch(tmp_path)
    assert locate(SPEC, cache_dir=tmp_path / "cache").missing[0] in ("model.safetensors", MANIFEST)


@pytest.mark.parametrize("revision", ["..", "../../x", "a/b"])
def test_a_revision_cannot_leave_the_cache(stub, tmp_path, revision):
    folder = fetch(tmp_path, revision=revision)
    assert folder.resolve().is_relative_to(tmp_path / "cache" / "models" / "Xorbits--bge-large-zh-v1.5" / "snapshots")
    assert folder.name not in ("", ".", "..")


def test_only_our_bar_is_drawn_and_only_when_asked(stub, tmp_path, capsys):
    fetch(tmp_path)
    assert capsys.readouterr().err == ""
    fetch(tmp_path, revision="other", show_progress=True)
    drawn = capsys.readouterr().err
    assert "bge-large-zh-v1.5" in drawn
    assert "model.safetensors" not in drawn


def test_a_given_revision_is_asked_for_and_kept_apart(stub, tmp_path):
    assert fetch(tmp_path).name == "master"
    assert fetch(tmp_path, revision="v1.5").name == "v1.5"


@pytest.mark.parametrize("layout", ["models/Xorbits/bge-large-zh-v1___5", "hub/models/Xorbits/bge-large-zh-v1___5"])
def test_existing_modelscope_caches_are_used(tmp_path, layout):
    folder = tiny_bert(tmp_path / "cache" / layout)
    assert fetch(tmp_path, local_files_only=True) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(zr.DownloadError, match=r"lacks model\.safetensors"):
        fetch(tmp_path, local_files_only=True)


def test_existing_hugging_face_caches_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    folder = tiny_bert(tmp_path / "hf" / "models--BAAI--bge-large-zh-v1.5" / "snapshots" / "abc")
    assert fetch(tmp_path, local_files_only=True) == folder


def test_a_missing_shard_makes_a_folder_partial(tmp_path):
    folder = tiny_bert(tmp_path / "cache" / "models/Xorbits/bge-large-zh-v1___5")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert locate(SPEC, cache_dir=tmp_path / "cache").missing == ("model-00002-of-00002.safetensors",)


CHILD = """
import sys
import zh_retrieval as zr
from zh_retrieval.hub import download
print(download.fetch(zr.get_spec(sys.argv[1]), cache_dir=sys.argv[2]))
"""


def child(tmp_path):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, SPEC.name, str(tmp_path / "cache")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_two_processes_at_once_both_get_the_whole_snapshot(stub, tmp_path):
    stub.delay = 0.2
    both = [child(tmp_path), child(tmp_path)]
    folders = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert verify(Path(folders.pop())) == []
    assert len([path for path, _ in stub.requests if path == "model.safetensors"]) == 1


def test_a_killed_download_is_no_snapshot_and_goes_on(stub, tmp_path):
    stub.delay = 30
    process = child(tmp_path)
    deadline = time.monotonic() + 30
    while not taken(stub) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert locate(SPEC, cache_dir=tmp_path / "cache").status == "partial"
    stub.delay = 0
    assert verify(fetch(tmp_path)) == []


def test_a_cache_that_cannot_be_written_ends_in_a_typed_error(stub, tmp_path):
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(zr.DownloadError, match="cannot be written"):
        fetch(tmp_path)


def test_the_builtin_model_needs_no_hub(monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    assert (download.fetch(zr.get_spec("builtin")) / "tokenizer.json").is_file()
