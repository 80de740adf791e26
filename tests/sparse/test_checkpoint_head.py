"""Sparse vectors by a layer of the checkpoint itself, as gte-multilingual-base has one, against transformers' class."""

from dataclasses import replace

import numpy as np
import pytest

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeSparseEmbeddings
from llama_index_zh_retrieval import ModelScopeSparseEmbedding
from tests.engines import ENGINES, load_by
from tests.modelscope_stub import Stub, serve
from tests.parity import gte_reference
from tests.server.serving import Server
from tests.tiny_models import tiny_gte
from tests.without_torch import torch
from zh_retrieval.server.settings import Settings

MODEL = "gte-multilingual-base"
OPTIONS = {"device": "cpu", "dtype": "float32"}
SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
TEXTS = ["", "好", SENTENCE, "Hello world 123", SENTENCE * 8, SENTENCE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_gte(tmp_path_factory.mktemp("gte"))


@pytest.fixture(scope="module")
def expected(folder):
    """Return {token id: weight} of each text: the largest ReLU of the token's logit, special tokens left out."""
    model = gte_reference.token_classifier(folder)
    with zr.load_encoder(MODEL, path=folder, **OPTIONS) as encoder:
        sequences = [list(encoder._documents([text]).prepare(0, 1)[0].ids) for text in TEXTS]
    found = []
    for ids in sequences:
        with torch.no_grad():
            weights = torch.relu(model(torch.tensor([ids])).logits[0, :, 0]).tolist()
        largest: dict[int, float] = {}
        for token, weight in zip(ids, weights, strict=True):
            if token not in (0, 1, 2, 3) and weight > 0:
                largest[token] = max(weight, largest.get(token, 0.0))
        found.append(largest)
    return found


def assert_equal(vectors, expected):
    assert sum(map(len, expected)) > 20
    for vector, wanted in zip(vectors, expected, strict=True):
        assert sorted(vector) == sorted(wanted)
        np.testing.assert_allclose([vector[i] for i in wanted], list(wanted.values()), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_are_transformers_own_and_dense_vectors_come_of_the_same_pass(folder, expected, engine):
    with (
        load_by(engine, zr.load_sparse_encoder, MODEL, path=folder, **OPTIONS) as sparse,
        load_by(engine, zr.load_encoder, MODEL, path=folder, **OPTIONS) as dense,
    ):
        assert_equal([vector.as_dict() for vector in sparse.encode_documents(TEXTS)], expected)
        rows, vectors = sparse.encode_queries_both(TEXTS)
        assert_equal([vector.as_dict() for vector in vectors], expected)
        np.testing.assert_allclose(rows, dense.encode_documents(TEXTS), atol=1e-5)
        assert sparse._model is dense._model
        assert sparse.fingerprint != dense.fingerprint


def test_both_frameworks_and_a_server_give_them(folder, expected):
    chain, engine = (
        cls(MODEL, path=folder, **OPTIONS) for cls in (ModelScopeSparseEmbeddings, ModelScopeSparseEmbedding)
    )
    assert_equal(chain.embed_documents(TEXTS), expected)
    assert_equal(engine.get_text_embedding_batch(TEXTS), expected)
    running = Server(Settings((f"{MODEL}={folder}",), OPTIONS))
    try:
        with zr.load_sparse_encoder(MODEL, base_url=running.url, dimensions=64) as remote:
            assert_equal([vector.as_dict() for vector in remote.encode_documents(TEXTS)], expected)
    finally:
        running.stop()


def test_rounded_weights_give_nearly_the_same(folder, expected):
    with zr.load_sparse_encoder(MODEL, path=folder, device="cpu", quantization="int8") as rounded:
        for vector, wanted in zip(rounded.encode_documents(TEXTS), expected, strict=True):
            found = vector.as_dict()
            assert max((abs(wanted.get(i, 0) - found.get(i, 0)) for i in {*wanted, *found}), default=0) < 0.06


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fine_tuned_body_without_the_layer_is_an_embedder(tmp_path, folder, engine):
    body = tiny_gte(tmp_path, head="none")
    with (
        load_by(engine, zr.load_encoder, MODEL, path=body, **OPTIONS) as alone,
        load_by(engine, zr.load_encoder, MODEL, path=folder, **OPTIONS) as whole,
    ):
        np.testing.assert_allclose(alone.encode_documents(TEXTS), whole.encode_documents(TEXTS), atol=1e-6)
    with pytest.raises(zr.CheckpointError, match="has no classifier, which gives gte-multilingual-base its sparse"):
        load_by(engine, zr.load_sparse_encoder, MODEL, path=body, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layer: {**layer, "classifier.weight": torch.zeros(3, 64)}, r"classifier\.weight \(3, 64\).*\(1, 64\)"),
        (lambda layer: {"classifier.weight": layer["classifier.weight"]}, r"expected classifier\.weight .* and"),
        (lambda layer: {**layer, "classifier.bias": torch.full((1,), float("nan"))}, "holds NaN or Inf"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(tmp_path, change, said):
    from safetensors.torch import load_file, save_file

    folder = tiny_gte(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    layer = {name: tensors.pop(name) for name in ("classifier.weight", "classifier.bias")}
    save_file({**tensors, **change(layer)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_sparse_encoder(MODEL, path=folder, **OPTIONS)


def test_nothing_is_downloaded_beside_the_checkpoint(folder, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    spec = replace(zr.get_spec(MODEL), name="small", aliases=(), dimension=64, matryoshka=None)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with serve(Stub({spec.sources[0].id: files})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        with zr.load_sparse_encoder(spec, cache_dir=tmp_path, **OPTIONS) as sparse:
            assert_equal([vector.as_dict() for vector in sparse.encode_documents(TEXTS)], expected)
