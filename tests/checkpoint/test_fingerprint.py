"""Which weights these are: content for everybody, the state of files inside one process."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_models import tiny_bert
from zh_retrieval.checkpoint import content, fingerprint
from zh_retrieval.checkpoint.fingerprint import ModelFiles
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import Manifest, RemoteFile, sha256

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("original") / "m", modules=True)


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "m"))


@pytest.fixture
def hashed(monkeypatch):
    """Count the files whose content is read; nothing is known from other tests."""
    found, blocks = [], content.blocks_of
    monkeypatch.setattr(content, "_KNOWN", {})
    monkeypatch.setattr(content, "blocks_of", lambda number: found.append(number) or blocks(number))
    return found


def digest(folder, *more):
    return ModelFiles(folder, folder, *more).digest()


def changed(file, where=-1):
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    return bytes(content)


def test_copies_are_equal_whatever_else_lies_beside_them(original, folder):
    (folder / "train.log").write_text("loss")
    (folder / "pytorch_model.bin").write_bytes(b"another format of the same")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / WEIGHTS).write_bytes(b"older")
    os.utime(folder / WEIGHTS, ns=(1, 1))
    assert digest(folder) == digest(original)


@pytest.mark.parametrize(
    "name", [WEIGHTS, "config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"]
)
def test_every_file_that_is_read_counts(original, folder, name):
    text = (folder / name).read_bytes()
    (folder / name).write_bytes(changed(folder / name) if name == WEIGHTS else b" " + text)
    assert digest(folder) != digest(original)


def test_a_replaced_file_of_equal_size_and_time_is_another(folder):
    before = ModelFiles(folder, folder)
    old, status = before.digest(), (folder / WEIGHTS).stat()
    (folder / "new").write_bytes(changed(folder / WEIGHTS))
    os.utime(folder / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "new").replace(folder / WEIGHTS)
    after = ModelFiles(folder, folder)
    assert not before.still_there()
    assert before.state != after.state
    assert before.digest() == old != after.digest()


def test_what_was_opened_is_what_is_hashed_though_it_is_gone(original, folder):
    files = ModelFiles(folder, folder)
    shutil.rmtree(folder)
    assert files.digest() == digest(original)


@pytest.mark.parametrize("hidden", [False, True])
def test_what_was_written_over_has_no_digest(folder, hidden):
    files, status = ModelFiles(folder, folder), (folder / WEIGHTS).stat()
    time.sleep(0.02)  # clocks of file systems tick
    (folder / WEIGHTS).write_bytes(changed(folder / WEIGHTS))
    if hidden:
        os.utime(folder / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} of .* was written to after it was loaded"):
        files.digest()


def test_the_second_question_reads_nothing(folder, hashed, monkeypatch):
    monkeypatch.setattr(content, "_SETTLED", -1)
    first = digest(folder)
    assert len(hashed) == len(fingerprint.files_read(folder, folder))
    assert digest(folder) == first
    (folder / WEIGHTS).write_bytes(changed(folder / WEIGHTS))
    hashed.clear()
    assert digest(folder) != first
    assert len(hashed) == 1


def test_the_next_process_does_not_read_a_large_file_again(folder, hashed, monkeypatch, tmp_path):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_SETTLED", -1)
    monkeypatch.setattr(content, "_LARGE", (folder / WEIGHTS).stat().st_size)
    first = digest(folder)
    (kept,) = (tmp_path / "cache" / "zh-retrieval-hashes").iterdir()
    content._KNOWN.clear()
    hashed.clear()
    assert digest(folder) == first
    assert len(hashed) == len(fingerprint.files_read(folder, folder)) - 1
    kept.write_text("nonsense")
    content._KNOWN.clear()
    assert digest(folder) == first


def test_what_changed_just_now_is_read_again(folder, hashed):
    digest(folder)
    count = len(hashed)
    digest(folder)
    assert len(hashed) > count


def test_a_snapshots_manifest_knows_its_content_until_a_file_changes(original, folder, hashed):
    files = [file for file in folder.rglob("*") if file.is_file()]
    listed = [RemoteFile(file.relative_to(folder).as_posix(), file.stat().st_size, sha256(file)) for file in files]
    Manifest("modelscope", "o/n", None, tuple(listed)).write(folder)
    found = digest(folder)
    assert hashed == []
    assert found == digest(original)
    time.sleep(0.02)
    (folder / WEIGHTS).write_bytes(changed(folder / WEIGHTS))
    assert digest(folder) != found


def test_an_adapter_counts_with_its_base_wherever_that_lies(original, folder, tmp_path):
    for name, place in (("a", "/here"), ("b", "/there")):
        (tmp_path / name).mkdir()
        config = {"base_model_name_or_path": place, "r": 4}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"numbers")

    def of(adapter, base):
        return ModelFiles(tmp_path / adapter, base, tmp_path / adapter).digest()

    assert of("a", original) == of("b", folder)
    (folder / WEIGHTS).write_bytes(changed(folder / WEIGHTS))
    assert of("a", original) != of("b", folder)
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"Numbers")
    assert len({of("a", original), of("b", original), digest(original)}) == 3


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be opened: Permission denied. Check its permissions"):
        ModelFiles(folder, folder)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_are_closed_with_their_last_user(folder):
    before = len(os.listdir("/proc/self/fd"))
    files = ModelFiles(folder, folder)
    assert len(os.listdir("/proc/self/fd")) > before
    del files
    assert len(os.listdir("/proc/self/fd")) == before
