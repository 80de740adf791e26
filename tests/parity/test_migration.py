"""An index that another package made stays valid: the vectors of usual classes on each layout of the catalogue."""

import json

import numpy as np
import pytest
import torch

from langchain_zh_retrieval import ModelScopeEmbeddings
from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.parity import gte_reference
from tests.tiny_models import seeded, tiny_bert, tiny_gte, tiny_xlmr

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXTS = ["今天天气很好，我们去公园散步。", "他们在地上", "abc 123"]
QUERY = "天气好不好"


def published(folder, make, pooling, dense):
    """Write modules.json and what it names as these models are published: without Normalize."""
    make(folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Dense": "2_Dense"} if dense else {})
    listing = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    listing = [{"idx": number, "name": str(number), **entry} for number, entry in enumerate(listing)]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **flags}))
    if dense:
        (folder / "2_Dense").mkdir()
        settings = {"in_features": 64, "out_features": 112, "bias": True}
        settings["activation_function"] = "torch.nn.modules.linear.Identity"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
        state = seeded(torch.nn.Linear(64, 112), seed=3).state_dict()
        torch.save({f"linear.{name}": value for name, value in state.items()}, folder / "2_Dense" / "pytorch_model.bin")
    return folder


def native_gte(folder):
    """Write a GTE as transformers' own class reads it."""
    tiny_gte(folder, prefix="gte.", head="none")
    gte_reference.config(folder).save_pretrained(folder)


@pytest.fixture(
    scope="module",
    params=[
        ("gte-large-zh", tiny_bert, "cls", False),
        ("m3e-base", tiny_bert, "mean", False),
        ("stella-mrl-large-zh-v3.5-1792d", tiny_bert, "mean", True),
        ("bce-embedding-base_v1", tiny_xlmr, "cls", False),
        ("gte-multilingual-base", native_gte, "cls", False),
    ],
    ids=lambda row: row[0],
)
def model(request, tmp_path_factory):
    name, *layout = request.param
    return name, published(tmp_path_factory.mktemp("published") / "m", *layout)


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_langchains_class(model):
    name, folder = model
    HuggingFaceEmbeddings = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings  # noqa: N806
    settings = {"encode_kwargs": {"normalize_embeddings": True}, "model_kwargs": {"device": "cpu"}}
    theirs, ours = (
        HuggingFaceEmbeddings(model_name=str(folder), **settings),
        ModelScopeEmbeddings(name, path=folder, **OPTIONS),
    )
    same(ours.embed_documents(TEXTS), theirs.embed_documents(TEXTS))
    same(ours.embed_query(QUERY), theirs.embed_query(QUERY))


def test_llama_indexs_class(model):
    name, folder = model
    HuggingFaceEmbedding = pytest.importorskip("llama_index.embeddings.huggingface").HuggingFaceEmbedding  # noqa: N806
    theirs, ours = HuggingFaceEmbedding(str(folder), device="cpu"), ModelScopeEmbedding(name, path=folder, **OPTIONS)
    same(ours.get_text_embedding_batch(TEXTS), theirs.get_text_embedding_batch(TEXTS))
    same(ours.get_query_embedding(QUERY), theirs.get_query_embedding(QUERY))


def test_flag_embeddings_rule(model):
    """FlagEmbedding's `FlagModel`: row 0 (`pooling_method="cls"`), L2; written out, as it does not import beside us."""
    from transformers import AutoModel, AutoTokenizer

    name, folder = model
    if ModelScopeEmbeddings(name).spec.pooling != "cls":
        pytest.skip("its default is another pooling")
    body, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = torch.nn.functional.normalize(body(**inputs).last_hidden_state[:, 0], dim=-1)
    same(ModelScopeEmbeddings(name, path=folder, **OPTIONS).embed_documents(TEXTS), rows)
