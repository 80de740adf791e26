"""Texts outside the vocabulary are counted, once per call."""

import logging

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_xlmr_reranker

THAI, ARABIC, RARE = "ภาษาไทย", "مرحبا بالعالم", "𠮷𠮷"
CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.WARNING, logger="zh_retrieval")

    def take():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return take


@pytest.mark.parametrize("way", ["encode_queries", "encode_documents"])
def test_texts_of_unknown_scripts_are_counted_in_one_warning(encoder, messages, way):
    vectors = getattr(encoder, way)([THAI, "绿茶", ARABIC, RARE, THAI, "", "tea ไทย 绿茶用水冲泡"])
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-6)  # this is why there is a warning
    (message,) = messages()
    assert message.startswith("4 of 7 texts are mostly unknown to this model's vocabulary")
    getattr(encoder, way)(["绿茶", "", "green tea", "1", "茶 ไทย 茶", "。"])
    assert messages() == []


def test_the_tokens_of_an_instruction_do_not_count(tmp_path, messages):
    with zr.load_encoder("bge-base-zh", path=tiny_bert(tmp_path), **CPU) as bert:
        bert.encode_queries(["ไทย", "天气"], instruction="今天天气很好我们去公园散步")
    (message,) = messages()
    assert message.startswith("1 of 2 texts are mostly unknown")


def test_a_document_of_chunks_is_counted(encoder, messages):
    encoder.encode_chunks(THAI, [(0, 3), (3, 7)])
    encoder.encode_chunks("绿茶。红茶。", [(0, 3), (3, 6)])
    (message,) = messages()
    assert message.startswith("1 of 1 documents are mostly unknown")


@pytest.mark.parametrize(
    ("model", "make"), [("bge-reranker-large", tiny_xlmr_reranker), ("rankinggpt", tiny_causal_lm)]
)
def test_pairs_of_unknown_scripts_are_counted_in_one_warning(tmp_path, messages, model, make):
    with zr.load_reranker(model, path=make(tmp_path), **CPU) as reranker:
        reranker.score([("茶", "绿茶"), (THAI, "绿茶"), ("茶", ARABIC), ("茶", ARABIC)])
        (message,) = messages()
        assert message.startswith("3 of 4 pairs are mostly unknown")
        reranker.score([("茶", "绿茶"), ("tea", "green tea")])
        assert messages() == []
