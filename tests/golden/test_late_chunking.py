"""Late chunking on the rebuilt JinaBERT: spans of one pass, macro-windows, exact character-to-token spans."""

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from llama_index.core.schema import Document as LlamaDocument

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings, late_chunks
from llama_index_zh_retrieval import LateChunkNodeParser, ModelScopeEmbedding
from tests.engines import ENGINES, load_by
from tests.golden.recipe import write
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.layers.packing import pack
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.late_chunks import macro_windows, token_span

CASE = Path(__file__).parent / "jina"
MODEL = "jina-embeddings-v2-base-zh"
TEXT = "柏林是德国的首都。它有三百八十万人口。这座城市也是一个州。" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(CASE, tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module", params=ENGINES)
def encoder(folder, request):
    with load_by(request.param, zr.load_encoder, MODEL, path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def body(folder):
    """Return the model's body, of whose hidden states chunks are means."""
    options = {"path": folder, "device": "cpu", "dtype": "float32", "private": True}
    with load_by("torch", zr.load_encoder, MODEL, **options) as loaded:
        yield loaded._model.engine._body


def hidden_of(body, ids):
    batch = pack([Tokens(ids)], torch.device("cpu"))
    with torch.inference_mode():
        return body(input_ids=batch.input_ids, packed=batch.layout)[0][0]


def pooled(rows):
    return torch.nn.functional.normalize(rows.mean(0), dim=0).numpy()


def test_spans_over_the_whole_text_are_the_pooled_tokens_of_the_full_forward(encoder, body):
    spans = sentence_spans(TEXT, 20)
    ids = encoder._model.tokenizer.ids([TEXT])[0]
    hidden = hidden_of(body, encoder._model.tokenizer.frame(ids, 8192))[1:-1]
    assert len(ids) == len(TEXT)  # one character is one token here, so spans of characters are spans of tokens
    expected = [pooled(hidden[start:end]) for start, end in spans]
    np.testing.assert_allclose(encoder.encode_chunks(TEXT, spans), expected, atol=1e-5)
    whole = encoder.encode_chunks(TEXT, [(0, len(TEXT))])[0]
    np.testing.assert_allclose(whole, pooled(hidden), atol=1e-5)


def test_a_chunk_depends_on_the_rest_of_the_document(encoder):
    alone = encoder.encode_chunks(TEXT[:9], [(0, 9)])
    within = encoder.encode_chunks(TEXT, [(0, 9)])
    assert np.abs(alone - within).max() > 1e-3


def test_beyond_the_limit_spans_agree_with_a_full_forward_inside_their_window(folder, body):
    with zr.load_encoder(MODEL, path=folder, device="cpu", dtype="float32", max_length=42) as short:
        tokenizer = short._model.tokenizer
        ids = tokenizer.ids([TEXT])[0]
        windows = macro_windows(len(ids), 40)
        spans = [(n, n + 5) for n in range(0, len(TEXT) - 5, 5)]
        found = short.encode_chunks(TEXT, spans)
        forwards = [hidden_of(body, tokenizer.frame(ids[low:high], 8192))[1:-1] for low, high in windows]
        for (start, end), vector in zip(spans, found, strict=True):
            matches = [
                np.abs(pooled(hidden[start - low : end - low]) - vector).max()
                for (low, high), hidden in zip(windows, forwards, strict=True)
                if low <= start and end <= high
            ]
            assert min(matches) < 1e-5


def test_order_of_spans_is_kept_and_no_spans_give_no_rows(encoder):
    spans = [(30, 40), (0, 10), (10, 30)]
    found = encoder.encode_chunks(TEXT, spans)
    for row, span in zip(found, spans, strict=True):
        np.testing.assert_allclose(row, encoder.encode_chunks(TEXT, [span])[0], atol=1e-5)
    assert encoder.encode_chunks(TEXT, []).shape == (0, 96)


async def test_async_equals_sync(encoder):
    spans = sentence_spans(TEXT, 20)
    np.testing.assert_allclose(await encoder.aencode_chunks(TEXT, spans), encoder.encode_chunks(TEXT, spans), atol=1e-6)


@pytest.mark.parametrize("span", [(5, 5), (-1, 3), (0, 10_000), (3, 2), (1.0, 2), (1, 2, 3)])
def test_spans_outside_the_document_are_refused(encoder, span):
    with pytest.raises(zr.InputError, match=r"spans\[1\]"):
        encoder.encode_chunks(TEXT, [(0, 2), span])


def test_models_that_do_not_pool_by_mean_are_refused(tmp_path):
    from tests.tiny_models import tiny_bert

    with (
        zr.load_encoder("bge-base-zh", path=tiny_bert(tmp_path), device="cpu") as bge,
        pytest.raises(zr.ConfigError, match="mean pooling"),
    ):
        bge.encode_chunks(TEXT, [(0, 3)])


def test_character_spans_map_to_tokens_exactly():
    offsets = [(0, 2), (2, 3), (4, 9), (9, 10)]  # character 3 is in no token
    assert token_span((0, 10), offsets) == (0, 4)
    assert token_span((1, 2), offsets) == (0, 1)
    assert token_span((2, 5), offsets) == (1, 3)
    assert token_span((3, 4), offsets) == (2, 2)


@given(st.integers(1, 500), st.integers(4, 60))
def test_macro_windows_cover_everything_and_overlap(count, room):
    windows = macro_windows(count, room)
    assert windows[0][0] == 0
    assert windows[-1][1] == count
    assert all(0 < high - low <= room for low, high in windows)
    assert all(b[0] < a[1] and a[0] < b[0] for a, b in itertools.pairwise(windows))


@given(
    st.text(st.one_of(st.sampled_from("好a。！ \n\u200b\u0301"), st.characters(codec="utf-8")), max_size=80),
    st.integers(1, 30),
)
def test_sentence_spans_hold_every_visible_character_once(text, size):
    spans = sentence_spans(text, size)
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(any(unicodedata.category(char)[0] not in "CMZ" for char in text[start:end]) for start, end in spans)
    if spans:
        assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    else:
        assert all(unicodedata.category(char)[0] in "CMZ" for char in text)


def test_both_frameworks_give_the_same_chunks_and_vectors(folder, encoder):
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    chunks, vectors = late_chunks(
        [Document(page_content=TEXT, metadata={"a": 1})], ModelScopeEmbeddings(MODEL, **options), chunk_size=20
    )
    parser = LateChunkNodeParser(embed_model=ModelScopeEmbedding(MODEL, **options), chunk_size=20)
    nodes = parser.get_nodes_from_documents([LlamaDocument(text=TEXT, metadata={"a": 1})])
    assert [node.text for node in nodes] == [chunk.page_content for chunk in chunks]
    assert [chunk.metadata["start_index"] for chunk in chunks] == [node.start_char_idx for node in nodes]
    np.testing.assert_allclose([node.embedding for node in nodes], vectors, atol=1e-6)
    np.testing.assert_allclose(vectors, encoder.encode_chunks(TEXT, sentence_spans(TEXT, 20)), atol=1e-6)


def test_spans_may_be_any_integers(encoder):
    spans = [(np.int64(0), np.int32(9)), [np.uint8(9), 12]]
    np.testing.assert_array_equal(encoder.encode_chunks(TEXT, spans), encoder.encode_chunks(TEXT, [(0, 9), (9, 12)]))
