"""Folders that must not load, and what the error says."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker


@pytest.fixture
def folder(tmp_path):
    return tiny_bert(tmp_path / "bert")


def refuse(folder, match, name="bge-base-zh"):
    with pytest.raises(zr.CheckpointError, match=match):
        zr.load_encoder(name, path=folder, device="cpu", dtype="float32")


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_without_vocabulary(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    refuse(folder, "holds no vocabulary")


def test_a_vocabulary_that_knows_nothing(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", encoding="utf-8")
    refuse(folder, "maps every word to the unknown token")


def test_a_vocabulary_without_the_special_tokens(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[UNK]\n好\n", encoding="utf-8")
    refuse(folder, r"lacks '\[CLS\]'")


def test_a_vocabulary_larger_than_the_embeddings(folder):
    (folder / "tokenizer.json").unlink()
    with (folder / "vocab.txt").open("a", encoding="utf-8") as out:
        out.writelines(f"多{number}\n" for number in range(50))
    refuse(folder, "embedding rows")


def test_a_missing_tensor(folder):
    change(folder, lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    refuse(folder, r"missing: .*layer\.1\.output\.dense\.weight")


def test_a_tensor_too_many(folder):
    change(folder, lambda weights: weights.update({"encoder.layer.9.output.dense.weight": torch.zeros(2)}))
    refuse(folder, r"unexpected: encoder\.layer\.9")


def test_a_tensor_of_the_wrong_shape(folder):
    change(folder, lambda weights: weights.update({"encoder.layer.0.output.dense.bias": torch.zeros(3)}))
    refuse(folder, r"layer\.0\.output\.dense\.bias")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite(folder, value):
    change(folder, lambda weights: weights["encoder.layer.0.output.dense.bias"].fill_(value))
    refuse(folder, r"layer\.0\.output\.dense\.bias' holds NaN or Inf")


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refuse(folder, r"model\.safetensors cannot be read")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, "holds no weights")


def test_no_config_or_a_broken_one(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    refuse(folder, "not valid JSON")
    (folder / "config.json").unlink()
    refuse(folder, r"no config\.json")


def test_another_architecture(folder, tmp_path):
    refuse(folder, "holds a 'bert' checkpoint, but e5-mistral-7b-instruct is 'mistral'", "e5-mistral")
    refuse(folder, "'bert' checkpoint, but jina", "jina-base-zh")
    refuse(tiny_xlmr_reranker(tmp_path / "xlmr"), "'xlm-roberta' checkpoint, but bge-base")


def test_a_reranker_with_several_labels(tmp_path):
    folder = tiny_xlmr_reranker(tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"], config["label2id"] = dict(enumerate("abc")), {"a": 0, "b": 1, "c": 2}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(zr.CheckpointError, match="3 labels"):
        zr.load_reranker("bge-reranker-large", path=folder, device="cpu")


def test_a_pickle_that_holds_more_than_tensors_does_not_run(folder):
    class Evil:
        def __reduce__(self):
            return SystemExit, ("foreign code ran",)

    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.LayerNorm.bias": Evil()}, folder / "pytorch_model.bin")
    refuse(folder, r"pytorch_model\.bin holds more than tensors and was not run: .*SystemExit")


def test_weights_in_bin_files_load(folder):
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32") as first:
        expected = first.encode_documents(["今天天气"])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32", private=True) as second:
        np.testing.assert_array_equal(second.encode_documents(["今天天气"]), expected)


def test_loading_draws_nothing_and_leaves_transformers_as_it_was(folder, capsys):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32", private=True):
        pass
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
