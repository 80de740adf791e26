"""Which snapshot is taken of those that are here, and what tells it from another."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert
from zh_retrieval.frameworks.identity import identity
from zh_retrieval.hub import download
from zh_retrieval.hub.cache import locate, target
from zh_retrieval.hub.snapshot import Manifest, RemoteFile, select, sha256, size_on_disk
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.spec import Source

ID = "BAAI/bge-large-zh-v1.5"
MODEL = zr.get_spec("bge-large-zh")
SPEC = replace(MODEL, sources=(*MODEL.sources[:1], Source("huggingface", ID)))
OLD, MAIN, NEW = "0" * 39 + "1", "abcdef0" + "2" * 33, "fedcba9" + "3" * 33


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def _hf(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def repository(tmp_path, published):
    """Return a Hugging Face cache's folder of a repository with three snapshots, the newest not that of main."""
    folder = tmp_path / "hf" / f"models--{ID.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    for file in published.iterdir():
        shutil.copy(file, folder / "blobs" / sha256(file))
    for age, commit in enumerate((NEW, MAIN, OLD)):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in published.iterdir():
            (snapshot / file.name).symlink_to(folder / "blobs" / sha256(file))
        set_age(snapshot, age)
    refer(folder, "main", MAIN)
    return folder


def refer(repository, name, commit):
    (repository / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / name).write_text(commit, encoding="utf-8")


def set_age(folder, hours):
    os.utime(folder, (1_700_000_000 - 3600 * hours,) * 2)


def found(tmp_path, revision=None):
    state = locate(SPEC, revision=revision, cache_dir=tmp_path / "cache")
    return state.path.name if state.status == "present" else None


def test_without_a_revision_it_is_refs_main(repository, tmp_path):
    assert found(tmp_path) == MAIN


def test_without_a_ref_it_is_the_newest(repository, tmp_path):
    shutil.rmtree(repository / "refs")
    assert found(tmp_path) == NEW
    set_age(repository / "snapshots" / OLD, -1)
    assert found(tmp_path) == OLD


def test_snapshots_of_one_age_are_taken_in_the_order_of_their_names(repository, tmp_path):
    shutil.rmtree(repository / "refs")
    for snapshot in (repository / "snapshots").iterdir():
        set_age(snapshot, 0)
    assert found(tmp_path) == OLD


def test_a_partial_snapshot_of_main_does_not_hide_a_whole_one(repository, tmp_path):
    (repository / "snapshots" / MAIN / "vocab.txt").unlink()
    (repository / "snapshots" / MAIN / "tokenizer.json").unlink()
    assert found(tmp_path) == NEW


def test_a_ref_to_a_snapshot_that_is_gone_counts_for_nothing(repository, tmp_path):
    shutil.rmtree(repository / "snapshots" / MAIN)
    assert found(tmp_path) == NEW


def test_the_recipes_revision_comes_before_main(repository, tmp_path):
    spec = replace(SPEC, sources=(Source("huggingface", ID, OLD),))
    assert locate(spec, cache_dir=tmp_path / "cache").path.name == OLD


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("main", MAIN), ("v1.5", OLD), ("refs/pr/7", NEW), (MAIN, MAIN), (NEW, NEW), (MAIN[:7], MAIN), (NEW[:12], NEW),
        (MAIN[:6], None), ("0" * 7, OLD), ("no-such", None), ("f" * 40, None), ("..", None), ("../snapshots", None),
    ],
)  # fmt: skip
def test_a_revision_is_a_branch_a_tag_or_a_commit_short_or_whole(repository, tmp_path, revision, expected):
    refer(repository, "v1.5", OLD)
    refer(repository, "refs/pr/7", NEW)
    assert found(tmp_path, revision) == expected


def test_a_short_commit_that_fits_two_snapshots_names_none(repository, tmp_path):
    shutil.copytree(repository / "snapshots" / MAIN, repository / "snapshots" / (MAIN[:10] + "f" * 30), symlinks=True)
    assert found(tmp_path, MAIN[:8]) is None


def test_a_ref_cannot_lead_out_of_the_cache(repository, tmp_path, published):
    refer(repository, "evil", str(published))
    refer(repository, "up", "../../../../published")
    assert found(tmp_path, "evil") is None
    assert found(tmp_path, "up") is None
    assert found(tmp_path, str(published)) is None


def test_modelscope_takes_the_default_branch_and_then_the_newest(tmp_path, published):
    snapshots = target(SPEC.sources[0], None, tmp_path / "cache").parent
    for age, name in enumerate(("v2", "v1", "master")):
        shutil.copytree(published, snapshots / name)
        set_age(snapshots / name, age)
    assert found(tmp_path) == "master"
    (snapshots / "master" / "config.json").unlink()
    assert found(tmp_path) == "v2"
    set_age(snapshots / "v1", -1)
    assert found(tmp_path) == "v1"
    assert found(tmp_path, "v2") == "v2"


def test_a_snapshot_of_ours_is_found_by_its_commit(tmp_path, published):
    folder = target(SPEC.sources[1], "main", tmp_path / "cache")
    shutil.copytree(published, folder)
    files = tuple(RemoteFile(file.name, file.stat().st_size, sha256(file)) for file in published.iterdir())
    Manifest("huggingface", ID, "main", files, MAIN).write(folder)
    for revision in ("main", MAIN, MAIN[:9]):
        assert found(tmp_path, revision) == "main"
    assert found(tmp_path, NEW) is None


@pytest.mark.parametrize(("revision", "why"), [(None, "refs/main"), ("v1.5", f"revision v1.5, which is {OLD} here")])
def test_what_was_chosen_and_why_is_logged(repository, tmp_path, caplog, revision, why):
    refer(repository, "v1.5", OLD)
    caplog.set_level(logging.INFO, "zh_retrieval")
    folder = download.fetch(SPEC, revision=revision, cache_dir=tmp_path / "cache", local_files_only=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"{SPEC.name}: the snapshot in {folder} (huggingface {ID}, {why})"
    ]


# --- where the caches are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"), ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, "/old"),
        ({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"}, "/new"), ({"HF_HOME": "$WHERE/h"}, "/w/h/hub"),
        ({}, "/home/someone/.cache/huggingface/hub"),
    ],
)  # fmt: skip
def test_our_place_of_hugging_faces_cache_is_its_clients(variables, expected):
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    program = (
        "from huggingface_hub import constants; from zh_retrieval.hub.cache import huggingface_root\n"
        "print(constants.HF_HUB_CACHE, huggingface_root(), sep='\\n')"
    )
    env = kept | {"HOME": "/home/someone", "WHERE": "/w", "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    out = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [expected, expected]


def test_a_whole_snapshot_below_xdg_cache_home_is_found(tmp_path, published, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg" / "huggingface" / "hub" / f"models--{ID.replace('/', '--')}" / "snapshots" / MAIN
    shutil.copytree(published, folder)
    assert found(tmp_path) == MAIN


NO_HOME = """
import json, os, pwd, sys
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
import zh_retrieval as zr
from zh_retrieval.cli.main import main
from zh_retrieval.hub import download
spec = zr.get_spec("bge-large-zh")
"""


def without_home(program, *arguments, **variables):
    names = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "MODELSCOPE_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", NO_HOME + program, *map(str, arguments)],
        env=kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_user_without_a_home_can_use_a_folder_that_is_given(tmp_path, published):
    folder = target(SPEC.sources[0], None, tmp_path)
    shutil.copytree(published, folder)
    done = without_home("print(download.fetch(spec, cache_dir=sys.argv[1]))", tmp_path)
    assert (done.stdout.strip(), done.returncode) == (str(folder), 0), done.stderr


def test_a_user_without_a_home_is_told_what_to_set(tmp_path):
    done = without_home("download.fetch(spec)")
    assert "ConfigError: '~/.cache/modelscope' needs a home folder" in done.stderr.splitlines()[-1]
    assert "Set HOME, or give cache_dir." in done.stderr
    done = without_home("download.fetch(spec, cache_dir=sys.argv[1])", tmp_path)  # the client itself needs one
    assert "DownloadError" in done.stderr.splitlines()[-1]
    assert "Set HOME" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_doctor_works_for_a_user_without_a_home():
    done = without_home("sys.exit(main(['doctor']))", ZH_RETRIEVAL_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "HOME" in done.stdout


# --- what is measured and taken ------------------------------------------------------------------------------------


def test_a_file_with_several_names_is_counted_once(repository, published):
    whole = sum(file.stat().st_size for file in published.iterdir())
    assert size_on_disk(repository / "snapshots" / MAIN) == whole  # links count where they are all there is
    assert size_on_disk(repository) == whole + len(MAIN)  # and the ref


def test_a_broken_link_does_not_stop_the_count(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"1234")
    assert size_on_disk(tmp_path) == 4


def test_shards_of_other_folders_are_not_taken():
    index = "model.safetensors.index.json"
    listed = ["config.json", "vocab.txt", index, "model-00001-of-00001.safetensors"]
    others = [
        "model-a/x-of-1.safetensors", "model-00001-of-00002/b.safetensors", "lora/model-00001-of-00001.safetensors"
    ]  # fmt: skip
    assert [file.path for file in select(map(RemoteFile, [*others, *listed]))] == listed


def test_the_identity_of_a_model_follows_what_its_branch_holds(tmp_path, published):
    folder = target(SPEC.sources[0], None, tmp_path)
    shutil.copytree(published, folder)

    def weights(digest):
        files = tuple(RemoteFile(file.name, file.stat().st_size, digest) for file in published.iterdir())
        Manifest("modelscope", SPEC.sources[0].id, "master", files).write(folder)
        return identity(SPEC, LoadOptions.given(cache_dir=tmp_path))["weights"]

    assert weights("a") == weights("a") is not None
    assert weights("a") != weights("b")
