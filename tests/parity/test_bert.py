"""Packed BERT with [CLS] pooling against transformers' eager BertModel."""

import logging

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.tiny_models import CHARACTERS, tiny_bert
from zh_retrieval.tokenization.vocabulary import load_vocabulary

LENGTHS = (0, 1, 2, 7, 7, 7, 30, 100, 101, 250, 509, 510)
TEXTS = [(CHARACTERS * 12)[:n] for n in LENGTHS]


def reference(folder, texts):
    """Return the [CLS] rows of the eager model, one text at a time, normalised."""
    from transformers import BertModel, BertTokenizer

    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = BertTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.no_grad():
            rows.append(torch.nn.functional.normalize(model(**ids).last_hidden_state[0, 0], dim=0).numpy())
    return np.stack(rows)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "modules.json"])
def folder(request, tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"), modules=request.param)


@pytest.fixture(scope="module", params=ENGINES)
def encoder(folder, request):
    with load_by(request.param, zr.load_encoder, "bge-base-zh", path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


def test_documents_packed_equal_the_eager_model(folder, encoder):
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), reference(folder, TEXTS), atol=1e-5)


def test_documents_alone_equal_the_eager_model(folder, encoder):
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, reference(folder, TEXTS), atol=1e-5)


def test_queries_carry_the_instruction(folder, encoder):
    prompted = [f"为这个句子生成表示以用于检索相关文章：{text}" for text in TEXTS]
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), reference(folder, prompted), atol=1e-5)


def test_an_empty_instruction_leaves_the_query_bare(folder, encoder):
    np.testing.assert_allclose(encoder.encode_queries(TEXTS, instruction=""), reference(folder, TEXTS), atol=1e-5)


def test_overlong_text_is_cut_with_one_warning_that_counts(encoder, caplog):
    long = [(CHARACTERS * 20)[:n] for n in (600, 900, 5)]
    with caplog.at_level(logging.WARNING, logger="zh_retrieval"):
        vectors = encoder.encode_documents(long)
    np.testing.assert_allclose(vectors[:2], encoder.encode_documents([t[:510] for t in long[:2]]), atol=1e-6)
    assert [record.getMessage().split(".")[0] for record in caplog.records] == [
        "2 of 3 texts were cut to 512 tokens (the longest has 902)"
    ]


def test_overlong_text_is_refused_when_asked(folder):
    with (
        zr.load_encoder("bge-base-zh", path=folder, device="cpu", overflow="error") as strict,
        pytest.raises(zr.InputError, match=r"texts\[1\] has 602 tokens"),
    ):
        strict.encode_documents(["好", (CHARACTERS * 20)[:600]])


def test_dimension_follows_the_folder(encoder):
    assert encoder.dimension == 64
    assert encoder.max_length == 512


def test_bfloat16_stays_close(folder, encoder):
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="bfloat16") as narrow:
        cosine = (narrow.encode_documents(TEXTS) * encoder.encode_documents(TEXTS)).sum(-1)
    assert cosine.min() > 0.999


def test_vocab_txt_alone_gives_the_same_ids(folder, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    converted, original = load_vocabulary(tmp_path), load_vocabulary(folder)
    text = "今天天气很好，Hello 123"
    assert converted.encode(text, add_special_tokens=False).ids == original.encode(text, add_special_tokens=False).ids
