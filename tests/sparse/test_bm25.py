"""BM25 as sparse vectors: values, indices, names, options; with a store's IDF the ranking of the index."""

import asyncio
import math
from collections import Counter

import numpy as np
import pytest

import zh_retrieval as zr
from tests.contract.demo_corpus import passages, questions
from zh_retrieval.aside import aside
from zh_retrieval.sparse.bm25 import average_length, index_of
from zh_retrieval.sparse.options import sparse_options

TEXTS = [text for _, text, _ in passages(40)]


@pytest.fixture(scope="module")
def bm25():
    with zr.load_sparse_encoder("bm25-zh") as encoder:
        yield encoder


def test_a_documents_values_are_bm25s_and_a_querys_are_1(bm25):
    (vector,) = bm25.encode_documents(["绿茶绿茶 tea"])
    length = len(zr.terms("绿茶绿茶 tea"))
    assert length == 4
    norm = 1.2 * (1 - 0.75 + 0.75 * length / 256)
    expected = {index_of(term): f * 2.2 / (f + norm) for term, f in {"绿茶": 2, "茶绿": 1, "tea": 1}.items()}
    assert vector.indices.tolist() == sorted(expected)
    assert (vector.indices.dtype, vector.values.dtype) == (np.uint32, np.float32)
    np.testing.assert_allclose(vector.values, [expected[index] for index in sorted(expected)], rtol=1e-6)
    (query,) = bm25.encode_queries(["绿茶绿茶"])
    assert query.as_dict() == {index_of("绿茶"): 1.0, index_of("茶绿"): 1.0}


def test_a_text_without_terms_has_an_empty_vector(bm25):
    for vector in (*bm25.encode_documents(["", "。"]), *bm25.encode_queries([""])):
        assert (vector.indices.shape, vector.values.shape) == ((0,), (0,))
        assert (vector.indices.dtype, vector.values.dtype, vector.dot(vector)) == (np.uint32, np.float32, 0.0)
    assert bm25.encode_documents([]) == bm25.encode_queries([]) == []


def inverse(holding):
    return math.log(1 + (len(TEXTS) - holding + 0.5) / (holding + 0.5))


def test_with_a_stores_idf_the_ranking_is_the_indexs():
    encoder = zr.load_sparse_encoder("bm25-zh", average_length=average_length(TEXTS))
    documents, index = encoder.encode_documents(TEXTS), zr.BM25Index(TEXTS)
    holding = Counter(number for vector in documents for number in vector.indices.tolist())
    for question in questions():
        (query,) = encoder.encode_queries([question])
        idf = {number: inverse(holding[number]) for number in query.as_dict()}
        scores = [
            sum(idf.get(number, 0.0) * value for number, value in vector.as_dict().items()) for vector in documents
        ]
        expected = np.zeros(len(TEXTS))
        for place, score in index.search(question, len(TEXTS)):
            expected[place] = score
        if len(set(zr.terms(question))) == len(zr.terms(question)):  # a query's value is 1 in any case
            np.testing.assert_allclose(scores, 2.2 * expected, atol=1e-5)


def test_indices_are_the_published_ones_and_fit_every_store(monkeypatch):
    assert index_of("绿茶") == 2319494582
    monkeypatch.setattr("zh_retrieval.sparse.bm25.zlib.crc32", lambda _: 2**32 - 1)
    assert index_of("冲突甲") < 2**32 - 1
    (vector,) = zr.load_sparse_encoder("bm25-zh").encode_documents(["冲突乙 冲突丙"])
    assert len(vector) == 1  # what meets counts as one term, added up
    index_of.cache_clear()


def test_no_pairs_of_frequent_characters_meet():
    characters = "".join(dict.fromkeys("".join(TEXTS)))[:300]
    pairs = {first + second for first in characters for second in characters}
    assert len({index_of.__wrapped__(pair) for pair in pairs}) == len(pairs) > 80_000


def test_async_twins_give_the_same_and_long_texts_too(bm25):
    texts = [*TEXTS, "绿茶" * 10_000]
    assert asyncio.run(bm25.aencode_documents(texts)) == bm25.encode_documents(texts)
    assert asyncio.run(bm25.aencode_queries(texts[:3])) == bm25.encode_queries(texts[:3])


def test_settings_are_part_of_the_fingerprint():
    made = [{}, {"k1": 1.5}, {"b": 0.5}, {"average_length": 100}, {"k1": 1.2}]
    found = [zr.load_sparse_encoder("bm25-zh", **settings).fingerprint for settings in made]
    assert len(set(found)) == 4
    assert found[0] == found[4]


def test_it_is_a_handle_like_others(bm25):
    assert (bm25.spec.name, bm25.needs_idf, bm25.device, bm25.dtype, bm25.closed) == (
        "bm25-zh", True, "cpu", "float32", False
    )  # fmt: skip
    with zr.load_sparse_encoder("BM25-zh") as other:
        other.warmup()
    assert other.closed
    with pytest.raises(zr.ClosedError, match="Load bm25-zh again"):
        other.encode_documents(["茶"])
    with pytest.raises(zr.InputError, match=r"texts\[1\] is int"):
        bm25.encode_documents(["茶", 1])
    with pytest.raises(zr.InputError, match="expected a list"):
        asyncio.run(bm25.aencode_queries("茶"))


@pytest.mark.parametrize(
    ("do", "error", "said"),
    [
        (lambda: zr.load_encoder("bm25-zh"), zr.WrongTaskError, "Use load_sparse_encoder"),
        (lambda: zr.load_reranker("bm25-zh"), zr.WrongTaskError, "Use load_sparse_encoder"),
        (lambda: zr.load_sparse_encoder("bge-base-zh"), zr.WrongTaskError, "These do: bm25-zh, bge-m3"),
        (lambda: zr.load_sparse_encoder("bge-reranker-large"), zr.WrongTaskError, "These do: bm25-zh"),
        (lambda: zr.load_sparse_encoder("bm25"), zr.UnknownModelError, "Did you mean bm25-zh"),
        (lambda: zr.load_sparse_encoder("bm25-zh", device="cuda"), zr.ConfigError, "has no weights: device"),
        (lambda: zr.load_sparse_encoder("bm25-zh", base_url="http://a:1"), zr.ConfigError, "base_url is no option"),
        (lambda: zr.load_sparse_encoder("bm25-zh", k2=1), zr.ConfigError, "There is no option 'k2'"),
        (lambda: zr.load_sparse_encoder("bm25-zh", k1=-1), zr.ConfigError, "k1=-1"),
        (lambda: zr.load_sparse_encoder("bm25-zh", b="a"), zr.ConfigError, "b='a'"),
        (lambda: zr.load_sparse_encoder("bm25-zh", average_length=0), zr.ConfigError, "average_length=0"),
        (lambda: zr.load_sparse_encoder("bge-m3", k1=1.5), zr.ConfigError, "is not BM25: k1"),
        (lambda: zr.load_sparse_encoder("bge-m3", overflow="window"), zr.ConfigError, "is for rerankers"),
        (lambda: zr.load_sparse_encoder("bge-m3", dimensions=8), zr.ConfigError, "is for dense vectors"),
        (lambda: average_length(["茶", None]), zr.InputError, r"texts\[1\]"),
    ],
)
def test_what_makes_no_sense_is_refused(do, error, said):
    with pytest.raises(error, match=said):
        do()


def test_options_are_checked_without_loading():
    assert sparse_options(zr.get_spec("bm25-zh"), {"k1": 2, "device": "auto", "average_length": None}).k1 == 2.0
    assert sparse_options(zr.get_spec("bge-m3"), {"k1": None, "max_length": 16}).max_length == 16


def test_models_are_those_with_weights_and_names_of_sparse_ones_are_known():
    assert zr.get_spec("bm25-zh").task == "sparse"
    assert "bm25-zh" not in [spec.name for spec in zr.MODELS]
    assert [spec.name for spec in zr.MODELS if spec.gives_sparse] == ["bge-m3", "gte-multilingual-base"]


async def test_a_question_does_not_wait_behind_a_corpus():
    with zr.load_sparse_encoder("bm25-zh") as encoder:
        corpus = asyncio.create_task(encoder.aencode_documents(["绿茶用八十度的水冲泡" * 20] * 2000))
        await asyncio.sleep(0)  # its first piece is on its way
        assert await aside(str.upper, "a") == "A"
        assert not corpus.done()
        assert len(await corpus) == 2000
