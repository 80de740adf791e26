"""Folders of sentence-transformers that end in a dense layer: its vectors, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings
from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.engines import ENGINES, load_by
from tests.tiny_models import seeded, tiny_bert, wordpiece_files
from zh_retrieval.checkpoint.fingerprint import ModelFiles
from zh_retrieval.hub.snapshot import RemoteFile, select

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXTS = ["今天天气很好，我们去公园散步。", "他们在地上", "", "abc 123", "天气" * 40]
CLS = replace(zr.get_spec("bge-base-zh"), name="mine", aliases=(), sources=(), matryoshka=8)
MEAN = replace(CLS, pooling="mean")


def saved_by_the_library(folder, spec, dense):
    """Let sentence-transformers itself save a model that ends in a dense layer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    body = modules.Transformer(str(tiny_bert(folder / "body")))
    model = SentenceTransformer(modules=[body, modules.Pooling(64, pooling_mode=spec.pooling), dense], device="cpu")
    model.save(str(folder / "saved"))
    return model, folder / "saved"


def layer(outputs=96, **options):
    from sentence_transformers.sentence_transformer import modules

    return seeded(modules.Dense(64, outputs, **options), seed=5)


@pytest.fixture(scope="module", params=["tanh and bias after a mean", "neither after [CLS]"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    if request.param.startswith("tanh"):
        return MEAN, *saved_by_the_library(folder, MEAN, layer())
    return CLS, *saved_by_the_library(folder, CLS, layer(bias=False, activation_function=torch.nn.Identity()))


def lengths_one(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_vectors_are_the_librarys(pair, engine):
    spec, model, saved = pair
    expected = lengths_one(model.encode(TEXTS))
    with load_by(engine, zr.load_encoder, spec, path=saved, **OPTIONS) as ours:
        assert ours.dimension == 96
        np.testing.assert_allclose(ours.encode_documents(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(ours.encode_documents(TEXTS[:1]), expected[:1], atol=1e-5)
    with load_by(engine, zr.load_encoder, spec, path=saved, dimensions=32, **OPTIONS) as cut:  # after the layer
        np.testing.assert_allclose(cut.encode_documents(TEXTS), lengths_one(expected[:, :32]), atol=1e-5)


def test_both_frameworks_give_them_and_int8_stays_close(pair, registered):
    spec, model, saved = pair
    name, expected = registered(spec), lengths_one(model.encode(TEXTS))
    for vectors in (
        ModelScopeEmbeddings(name, path=saved, **OPTIONS).embed_documents(TEXTS),
        ModelScopeEmbedding(name, path=saved, **OPTIONS).get_text_embedding_batch(TEXTS),
    ):
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    with zr.load_encoder(spec, path=saved, device="cpu", quantization="int8") as rounded:
        assert (rounded.encode_documents(TEXTS) * expected).sum(1).min() > 0.99


@pytest.fixture
def copy(pair, tmp_path):
    return shutil.copytree(pair[2], tmp_path / "copy")


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "activation_function 'torch.nn.*GELU', expected"),
        ({"activation_function": "os.system"}, "activation_function 'os.system', expected Identity or Tanh"),
        ({"activation_function": ["torch.nn.Tanh"]}, "activation_function"),
        ({"use_residual": True}, "use_residual 'True', expected none such"),
        ({"module_output_name": "scores"}, "input and output"),
        ({"in_features": "64"}, "sizes .* two positive whole numbers"),
        ({"out_features": 10**9}, "linear.weight .*96, 64.* describes .*1000000000"),
        ({"bias": 1}, "bias '1', expected true or false"),
    ],
)
def test_another_layer_is_refused(pair, copy, settings, said):
    change(copy / "2_Dense" / "config.json", **settings)
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_encoder(pair[0], path=copy, **OPTIONS)


def modules_are(folder, *listed):
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in listed]
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


BODY, POOLING, DENSE = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([BODY, DENSE, POOLING], "modules: Transformer, Dense, Pooling, but .* one Dense, right after Pooling"),
        ([BODY, POOLING, ("Normalize", "n"), DENSE], "one Dense, right after Pooling"),
        ([BODY, POOLING, DENSE, DENSE], "one Dense, right after Pooling"),
        ([BODY, DENSE], "one Dense, right after Pooling"),
        ([BODY, POOLING, ("Dense", "../2_Dense")], "points outside its folder"),
        ([BODY, POOLING, ("Dense", "")], "points outside its folder"),
        ([BODY, POOLING, ("Dense", "3_Dense")], "3_Dense/config.json is missing"),
    ],
)
def test_modules_in_another_order_are_refused(pair, copy, listed, said):
    modules_are(copy, *listed)
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_encoder(pair[0], path=copy, **OPTIONS)


def test_a_layer_that_does_not_fit_or_is_broken_is_refused(pair, copy):
    from safetensors.torch import save_file

    spec, weights = pair[0], copy / "2_Dense" / "model.safetensors"
    change(copy / "2_Dense" / "config.json", in_features=32, bias=False)
    save_file({"linear.weight": torch.ones(96, 32)}, weights)
    with pytest.raises(zr.CheckpointError, match="takes 32 numbers, but hidden_size is 64"):
        zr.load_encoder(spec, path=copy, **OPTIONS)
    change(copy / "2_Dense" / "config.json", in_features=64)
    save_file({"linear.weight": torch.full((96, 64), torch.nan)}, weights)
    with pytest.raises(zr.CheckpointError, match=r"2_Dense.*NaN or Inf"):
        zr.load_encoder(spec, path=copy, **OPTIONS)
    weights.unlink()
    with pytest.raises(zr.CheckpointError, match="2_Dense holds no weights"):
        zr.load_encoder(spec, path=copy, **OPTIONS)


def test_the_layer_is_part_of_the_fingerprint(pair, copy):
    def digest():
        return ModelFiles(copy, copy).digest()

    found = [digest()]
    assert found == [ModelFiles(pair[2], pair[2]).digest()]
    for file in ("2_Dense/config.json", "2_Dense/model.safetensors"):
        with (copy / file).open("ab") as stream:
            stream.write(b" ")
        found.append(digest())
    assert len(set(found)) == 3


def published(folder):
    """Write the layout of stella-mrl-large-zh-v3.5-1792d: vocab.txt alone, all weights as .bin, no Normalize."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    wordpiece_files(folder)
    (folder / "tokenizer.json").unlink()
    config = BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()), hidden_size=64,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    )  # fmt: skip
    body = seeded(BertModel(config))
    config.save_pretrained(folder)
    torch.save(body.state_dict(), folder / "pytorch_model.bin")
    modules_are(folder, BODY, POOLING, DENSE)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Dense").mkdir()
    settings = {"in_features": 64, "out_features": 112, "bias": True}
    settings["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
    dense = seeded(torch.nn.Linear(64, 112), seed=3)
    torch.save(
        {f"linear.{name}": value for name, value in dense.state_dict().items()}, folder / "2_Dense/pytorch_model.bin"
    )
    return body, dense


def test_a_published_snapshot_gives_the_vectors_of_transformers(tmp_path):
    from transformers import BertTokenizer

    source = zr.Source("modelscope", "me/stella")
    spec = replace(zr.get_spec("stella-mrl-large-zh-v3.5-1792d"), name="mine", sources=(source,), dimension=112)
    snapshot = tmp_path / "models" / "me--stella" / "snapshots" / "master"
    body, dense = published(snapshot)
    tokenizer = BertTokenizer.from_pretrained(snapshot)
    with torch.no_grad():
        hidden = [body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
        expected = lengths_one(torch.stack([dense(rows.mean(0)) for rows in hidden]).numpy())
    with zr.load_encoder(spec, cache_dir=tmp_path, local_files_only=True, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.encode_documents(TEXTS), expected, atol=1e-5)
    other = replace(spec, dimension=128)
    with pytest.raises(zr.CheckpointError, match="has a dense layer of 112, but mine has 128: wrong snapshot"):
        zr.load_encoder(other, cache_dir=tmp_path, local_files_only=True, **OPTIONS)
    (snapshot / "modules.json").unlink()
    with pytest.raises(
        zr.CheckpointError, match=r"no modules\.json with a dense layer, but the recipe of mine has one"
    ):
        zr.load_encoder(spec, cache_dir=tmp_path, local_files_only=True, **OPTIONS)


def test_its_files_are_downloaded_in_one_format():
    listed = ["config.json", "vocab.txt", "pytorch_model.bin", "modules.json", "2_Dense/config.json"]
    both = [*listed, "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense_1024/model.safetensors"]
    chosen = [file.path for file in select(RemoteFile(path, 1) for path in both)]
    assert sorted(chosen) == sorted([*listed, "2_Dense/model.safetensors"])
    old = [*listed, "2_Dense/pytorch_model.bin"]
    assert sorted(file.path for file in select(RemoteFile(path, 1) for path in old)) == sorted(old)
