"""Weights that are replaced under a running process: what is loaded stays, what is loaded next is new."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

import zh_retrieval as zr
from tests import golden
from tests.engines import ENGINES, computed_by
from tests.golden.recipe import write
from tests.tiny_models import tiny_bert
from zh_retrieval.local import sharing
from zh_retrieval.sequence import Tokens

TEXTS = ["今天天气很好", "我们去公园散步"]
WEIGHTS = "model.safetensors"
SMALL = replace(zr.get_spec("bge-base-zh"), dimension=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return two folders with other weights of one model, to be copied."""
    root = tmp_path_factory.mktemp("made")
    return [tiny_bert(root / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made[0], tmp_path / "m"))


def load(path, **options):
    return zr.load_encoder("bge-base-zh", path=path, device="cpu", dtype="float32", **options)


def vectors(path):
    with load(path) as encoder:
        return encoder.encode_documents(TEXTS)


def renamed(new, folder):
    shutil.copy(new / WEIGHTS, folder / "new")
    (folder / "new").replace(folder / WEIGHTS)


def written_over(new, folder):
    shutil.copyfile(new / WEIGHTS, folder / WEIGHTS)


def renamed_with_the_old_time(new, folder):
    status = (folder / WEIGHTS).stat()
    renamed(new, folder)
    os.utime(folder / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))


def removed(_, folder):
    shutil.rmtree(folder)


REPLACED = (renamed, written_over, renamed_with_the_old_time)


@pytest.mark.parametrize("change", REPLACED)
def test_a_new_load_has_the_new_weights_and_an_old_handle_the_old_ones(made, folder, change):
    old, new = map(vectors, made)
    with load(folder) as first:
        fingerprint = first.fingerprint
        change(made[1], folder)
        with load(folder) as second, load(folder) as third:
            np.testing.assert_array_equal(second.encode_documents(TEXTS), new)
            np.testing.assert_array_equal(first.encode_documents(TEXTS), old)
            assert second._model is third._model
            assert second.fingerprint == third.fingerprint != fingerprint == first.fingerprint


def in_a_child(check):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 7)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forks of a process with threads are meant
@pytest.mark.parametrize("change", [*REPLACED, removed])
def test_a_forked_child_computes_with_its_parents_weights(made, folder, change):
    with load(folder) as encoder:
        old = encoder.encode_documents(TEXTS)
        change(made[1], folder)
        assert in_a_child(lambda: np.allclose(encoder.encode_documents(TEXTS), old, atol=1e-6)) == 0
        np.testing.assert_array_equal(encoder.encode_documents(TEXTS), old)


def test_torch_keeps_what_it_loaded_from_a_file_that_is_written_over(folder):
    with computed_by("torch"), load(folder, private=True) as encoder:
        old = encoder.encode_documents(TEXTS)
        (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
        np.testing.assert_array_equal(encoder.encode_documents(TEXTS), old)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
def test_an_adapter_keeps_what_it_loaded_of_its_base(folder, tmp_path, engine):
    model = get_peft_model(AutoModel.from_pretrained(folder), LoraConfig(r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path / "lora")
    with computed_by(engine), load(tmp_path / "lora", private=True) as encoder:
        old = encoder.encode_documents(TEXTS)
        (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
        np.testing.assert_array_equal(encoder.encode_documents(TEXTS), old)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_long_texts_keep_the_weights_of_the_short_ones(tmp_path, quantization):
    folder = write(Path(golden.__file__).parent / "jina", tmp_path)
    options = {"device": "cpu", "private": True, "quantization": quantization}
    tokens = [Tokens([2, *range(5, 40), 3])]
    with zr.load_encoder("jina-base-zh", path=folder, **options) as encoder:
        long_texts = encoder._model.engine._long_texts
        with zr.load_encoder("jina-base-zh", path=folder, **options) as twin:
            expected = twin._model.engine._long_texts.run(tokens)
        (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
        np.testing.assert_array_equal(long_texts.run(tokens), expected)


def test_files_that_change_while_they_load_are_loaded_again(made, folder, monkeypatch):
    builds, build = [], sharing.build

    def meanwhile(*arguments):
        built = build(*arguments)
        builds.append(1)
        if len(builds) == 1:
            renamed(made[1], folder)
        return built

    monkeypatch.setattr(sharing, "build", meanwhile)
    with load(folder) as encoder, load(made[1]) as expected:
        assert encoder.fingerprint == expected.fingerprint
        np.testing.assert_array_equal(encoder.encode_documents(TEXTS), expected.encode_documents(TEXTS))


def test_files_that_change_again_and_again_are_an_error(made, folder, monkeypatch):
    build = sharing.build

    def meanwhile(*arguments):
        built = build(*arguments)
        renamed(made[0], folder)
        return built

    monkeypatch.setattr(sharing, "build", meanwhile)
    with pytest.raises(zr.CheckpointError, match="changed while they were loaded"):
        load(folder)
    monkeypatch.undo()
    assert vectors(folder).shape == (2, 64)


def test_equal_models_have_equal_fingerprints_and_every_option_that_changes_results_another(made, folder):
    with load(made[0]) as encoder, load(folder, threads=1, max_batch_tokens=100) as copy:
        assert encoder.fingerprint == copy.fingerprint
        assert len(encoder.fingerprint) == 16
        found = {encoder.fingerprint}
    for changed in ({"max_length": 64}, {"overflow": "error"}, {"quantization": "int8"}):
        with load(folder, **changed) as other:
            found.add(other.fingerprint)
    assert len(found) == 4
    with load(folder) as closed:
        pass
    with pytest.raises(zr.ClosedError):
        _ = closed.fingerprint


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_snapshot_is_mapped_and_a_folder_of_the_user_copied(made, tmp_path, quantization):
    snapshot = tmp_path / "models" / "AI-ModelScope--bge-base-zh-v1.5" / "snapshots" / "master"
    shutil.copytree(made[0], snapshot)
    options = {"device": "cpu", "dtype": "float32", "quantization": quantization, "private": True}

    def mapped(folder):
        return str(folder / WEIGHTS) in Path("/proc/self/maps").read_text(encoding="utf-8")

    with zr.load_encoder("bge-base-zh", path=made[0], **options) as mine:
        expected = mine.encode_documents(TEXTS)
        assert not mapped(made[0])
    with zr.load_encoder(SMALL, cache_dir=tmp_path, **options) as theirs:
        assert mapped(snapshot)
        np.testing.assert_array_equal(theirs.encode_documents(TEXTS), expected)
