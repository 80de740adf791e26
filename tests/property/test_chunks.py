"""Late chunks of any document: both frameworks take it whole, whatever its tokenizer drops."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from llama_index.core.schema import Document as LlamaDocument

from langchain_zh_retrieval import ModelScopeEmbeddings, late_chunks
from llama_index_zh_retrieval import LateChunkNodeParser, ModelScopeEmbedding
from tests.depth import examples

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXT = "绿茶用八十度的水冲泡。红茶要用沸水！"
DROPPED = "\u200b\ufeff\u200d\x07\ufe0f\U000e0100\u0301\ue000\u0378\u00ad \x85"


@pytest.fixture(scope="module")
def embeddings():
    return ModelScopeEmbeddings("e5-small-zh", **OPTIONS)


@pytest.fixture(scope="module")
def parser():
    return LateChunkNodeParser(embed_model=ModelScopeEmbedding("e5-small-zh", **OPTIONS), chunk_size=12)


def both(texts, embeddings, parser):
    """Return the chunks that both frameworks make of the texts, after comparing them."""
    chunks, vectors = late_chunks([Document(page_content=text) for text in texts], embeddings, chunk_size=12)
    nodes = parser.get_nodes_from_documents([LlamaDocument(text=text) for text in texts])
    assert [node.text for node in nodes] == [chunk.page_content for chunk in chunks]
    assert len(vectors) == len(chunks)
    if vectors:
        np.testing.assert_allclose([node.embedding for node in nodes], vectors, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    return [chunk.page_content for chunk in chunks]


@pytest.mark.parametrize("dropped", DROPPED, ids=ascii)
def test_parts_that_hold_no_token_stay_with_their_neighbour(embeddings, parser, dropped):
    run = dropped * 30
    for text in (f"{TEXT}\n{run}", f"{run}\n{TEXT}", f"{TEXT}\n{run}\n{TEXT}"):
        assert "".join("".join(both([text], embeddings, parser)).split()) == "".join(text.split())
    assert both([run, ""], embeddings, parser) == []


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.one_of(st.sampled_from(DROPPED + "。！\n好a"), st.characters(codec="utf-8")), max_size=60))
def test_a_document_of_any_characters_is_chunked(embeddings, parser, text):
    assert all(chunk in text for chunk in both([text], embeddings, parser))


def test_a_span_without_a_token_gets_the_one_before_it_and_a_document_without_any_the_whole(encoder):
    text = "绿茶。 \u200b\x07红"
    last = encoder.encode_chunks(text, [(2, 3)])
    for span in ((3, 4), (4, 5), (4, 6)):
        np.testing.assert_allclose(encoder.encode_chunks(text, [span]), last, atol=1e-6)
    head, first = encoder.encode_chunks("\u200b\x07茶", [(0, 1), (2, 3)])
    np.testing.assert_allclose(head, first, atol=1e-6)
    whole = encoder.encode_documents(["\u200b\x07"])[0]
    np.testing.assert_allclose(encoder.encode_chunks("\u200b\x07", [(0, 1), (1, 2)]), [whole, whole], atol=1e-5)
