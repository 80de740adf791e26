"""Whatever is given: the right result, or an InputError that names the index; and nobody else is disturbed."""

import asyncio
import copy
import json
import random
import re
import threading
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import zh_retrieval as zr
from langchain_zh_retrieval import BGEReranker as LangChainReranker
from langchain_zh_retrieval import ModelScopeEmbeddings, late_chunks
from llama_index_zh_retrieval import BGEReranker as LlamaIndexReranker
from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.depth import examples
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_xlmr_reranker
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.files.reading.records import Reader, text_form
from zh_retrieval.files.reading.rows import rows_of
from zh_retrieval.files.reading.sources import find
from zh_retrieval.files.utf8 import json_text

FUZZ = settings(
    max_examples=examples(30),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PIECES = (
    "\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\r\n", "\t", " ", "\u3000", "\u200b", "\ufeff", "\ufffe", "\U0010ffff",
    "\u202e", "שלום", "مرحبا", "👨\u200d👩\u200d👧\u200d👦", "👩🏽\u200d🚀", "🇨🇳", "e\u0301", "a" + "\u0300" * 40,
    "ﬁ", "①", "㎏",
    "각", "각", "𠮷", "葛\U000e0100", "</s>", "<s>", "<pad>", "<|im_end|>", "[CLS]", "{text}", "{instruction}", "%s",
    "绿茶用八十度的水冲泡。", "Ünïcödé", "query: ", "passage: ",
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
)
SURROGATES = st.builds(
    lambda before, lone, after: before + lone + after,
    st.text("好a", max_size=3), st.characters(categories=["Cs"]), st.text("好a", max_size=3),
)  # fmt: skip
NO_TEXTS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4), st.lists(TEXTS, max_size=2),
    st.tuples(TEXTS), st.dictionaries(TEXTS, st.integers(), max_size=1), st.sets(TEXTS, max_size=1),
    st.builds(np.array, st.lists(st.integers(), max_size=2)), st.just(object()), st.just(str), st.just(Ellipsis),
)  # fmt: skip
ITEMS = st.one_of(TEXTS, TEXTS, TEXTS, SURROGATES, NO_TEXTS)
LISTS = st.one_of(st.lists(TEXTS, max_size=5), st.lists(ITEMS, max_size=5))
NO_LISTS = (
    None, 3, 2.5, True, "好", b"x", {"好"}, {"好": 1}, iter(["好"]), (text for text in ["好"]), np.array([["好"]]),
    np.array("好"), object(), map(str, [1]), {"好": 1}.keys(), frozenset(["好"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))
    with zr.load_reranker("bge-reranker-large", path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def likelihood(tmp_path_factory):
    folder = tiny_causal_lm(tmp_path_factory.mktemp("llama"))
    with zr.load_reranker("rankinggpt-qwen-7b", path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


ALONE: dict[tuple[str, str], np.ndarray] = {}  # the vector of each text that was ever given, on its own


def is_text(item):
    return isinstance(item, str) and not any("\ud800" <= character <= "\udfff" for character in item)


def first_bad(items):
    return next((index for index, item in enumerate(items) if not is_text(item)), None)


def assert_vectors(vectors, alone):
    """Check float32 rows of length 1 that equal the vectors of the same texts given one by one."""
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(alone), 384)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    if alone:
        np.testing.assert_allclose(vectors, np.stack(alone), atol=1e-5)


@FUZZ
@given(LISTS, st.sampled_from(["encode_queries", "encode_documents"]), st.booleans())
def test_texts_give_vectors_or_the_index_of_the_bad_one(encoder, texts, way, as_tuple):
    encode = getattr(encoder, way)
    given = tuple(texts) if as_tuple else texts
    bad = first_bad(texts)
    if bad is not None:
        with pytest.raises(zr.InputError, match=rf"^texts\[{bad}\] "):
            encode(given)
        with pytest.raises(zr.InputError, match=rf"^texts\[{bad}\] "):
            asyncio.run(getattr(encoder, f"a{way}")(given))
        return
    event("vectors")
    for text in texts:
        if (way, text) not in ALONE:
            ALONE[way, text] = encode([text])[0]
    alone = [ALONE[way, text] for text in texts]
    assert_vectors(encode(given), alone)
    assert_vectors(asyncio.run(getattr(encoder, f"a{way}")(given)), alone)


@pytest.mark.parametrize("texts", NO_LISTS, ids=lambda value: type(value).__name__)
def test_what_is_no_list_is_refused_everywhere(encoder, cross_encoder, texts):
    for call in (
        lambda: encoder.encode_queries(texts),
        lambda: encoder.encode_documents(texts),
        lambda: cross_encoder.rank("茶", texts),
        lambda: cross_encoder.score(texts),
        lambda: encoder.encode_chunks("绿茶", texts),
    ):
        with pytest.raises(zr.InputError, match=rf" is {type(texts).__name__}, expected a list of "):
            call()


@FUZZ
@given(ITEMS)
def test_an_instruction_is_text_or_refused(bert, instruction):
    if is_text(instruction) or instruction is None:
        assert np.isfinite(bert.encode_queries(["天气"], instruction=instruction)).all()
    else:
        with pytest.raises((zr.ConfigError, zr.InputError), match=r"^instruction "):
            bert.encode_queries(["天气"], instruction=instruction)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tiny_bert(tmp_path_factory.mktemp("bert"))
    with zr.load_encoder("bge-large-zh", path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


BOUNDS = st.one_of(st.integers(-2, 60), st.none(), st.text("a1", max_size=1), st.floats(0, 9))
SPANS = st.one_of(st.tuples(st.integers(0, 30), st.integers(1, 40)), st.lists(BOUNDS, max_size=3), NO_TEXTS)


@pytest.mark.parametrize("sentences", [True, False])
@FUZZ
@given(data=st.data())
def test_chunks_give_vectors_or_name_what_is_wrong(encoder, sentences, data):
    document = data.draw(st.lists(TEXTS, min_size=1, max_size=5).map("。".join) if sentences else ITEMS)
    spans = data.draw(st.lists(SPANS, max_size=4))
    if not is_text(document):
        with pytest.raises(zr.InputError, match=r"^document "):
            encoder.encode_chunks(document, spans)
        return
    if sentences:  # of the document, with what was drawn now and then among them
        spans = [*sentence_spans(document, 10), *spans[3:]]
    alone, bad = [], None
    for index, span in enumerate(spans):
        try:
            alone.append(encoder.encode_chunks(document, [span])[0])
        except zr.InputError:
            bad = index if bad is None else bad
    if bad is None:
        event("vectors" if alone else "no spans")
        assert_vectors(encoder.encode_chunks(document, spans), alone)
    else:
        with pytest.raises(zr.InputError, match=r"^spans\[[0-9]\] "):
            encoder.encode_chunks(document, spans)


PAIRS = st.one_of(
    st.tuples(TEXTS, TEXTS),
    st.lists(TEXTS, min_size=2, max_size=2),
    st.tuples(ITEMS, ITEMS),
    st.tuples(TEXTS),
    NO_TEXTS,
)


def says_nothing(reranker, query):
    """Return True for a query that has no score: empty, white space, or nothing that the vocabulary sees."""
    return not query.strip() or not reranker._model.tokenizer.ids([query])[0]


def is_pair(pair):
    return isinstance(pair, (tuple, list)) and len(pair) == 2 and is_text(pair[0]) and is_text(pair[1])


@FUZZ
@given(st.one_of(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.lists(PAIRS, max_size=5)))
def test_pairs_give_scores_or_the_index_of_the_bad_one(cross_encoder, likelihood, pairs):
    for reranker in (cross_encoder, likelihood):
        alone = []
        wrong = {index for index, pair in enumerate(pairs) if not is_pair(pair)}
        for index in set(range(len(pairs))) - wrong:
            try:
                alone.append(reranker.score([pairs[index]])[0])
            except zr.InputError:
                wrong.add(index)
        assert all(not is_pair(pairs[index]) or says_nothing(reranker, pairs[index][0]) for index in wrong)
        if wrong:
            with pytest.raises(zr.InputError) as caught:
                reranker.score(pairs)
            assert int(re.match(r"pairs\[(\d+)\] ", str(caught.value))[1]) in wrong
            continue
        event("scores" if pairs else "no pairs")
        scores = reranker.score(pairs)
        assert scores.dtype == np.float32
        assert scores.shape == (len(pairs),)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("items", [TEXTS, ITEMS], ids=["texts", "anything"])
@FUZZ
@given(data=st.data())
def test_rank_gives_every_index_once_or_names_the_bad_one(cross_encoder, items, data):
    query, documents = data.draw(items), data.draw(st.lists(items, max_size=5))
    bad = first_bad(documents)
    if not is_text(query) or bad is not None:
        named = "query " if not is_text(query) else rf"documents\[{bad}\] "
        with pytest.raises(zr.InputError, match=f"^{named}"):
            cross_encoder.rank(query, documents)
        return
    if documents and says_nothing(cross_encoder, query):
        with pytest.raises(zr.InputError, match="empty"):
            cross_encoder.rank(query, documents)
        return
    event("ranked")
    ranked = cross_encoder.rank(query, documents)
    assert sorted(entry.index for entry in ranked) == list(range(len(documents)))
    scores = cross_encoder.score([(query, document) for document in documents])
    np.testing.assert_allclose([entry.score for entry in ranked], sorted(scores, reverse=True), atol=1e-5)


# --- the frameworks ------------------------------------------------------------------------------------------------


@cache
def langchain():
    return ModelScopeEmbeddings("e5-small-zh", device="cpu", dtype="float32")


@cache
def llama_index():
    return ModelScopeEmbedding("e5-small-zh", device="cpu", dtype="float32")


@FUZZ
@given(LISTS, ITEMS)
def test_both_frameworks_give_the_encoders_vectors_or_name_the_bad_text(encoder, texts, query):
    bad = first_bad(texts)
    if bad is None:
        expected = encoder.encode_documents(texts)
        assert_vectors(np.array(langchain().embed_documents(texts), np.float32).reshape(-1, 384), list(expected))
        assert_vectors(
            np.array(llama_index().get_text_embedding_batch(texts), np.float32).reshape(-1, 384), list(expected)
        )
    else:
        for call in (langchain().embed_documents, llama_index().get_text_embedding_batch):
            with pytest.raises(zr.InputError, match=rf"^texts\[{bad}\] "):
                call(texts)
    for call in (langchain().embed_query, llama_index().get_query_embedding):
        if is_text(query):
            np.testing.assert_allclose(call(query), encoder.encode_queries([query])[0], atol=1e-5)
        else:
            with pytest.raises(zr.InputError, match=r"^texts\[0\] "):
                call(query)


def nested(depth):
    value: object = "深"
    for level in range(depth):
        value = {"next": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize("depth", [1, 50, 200])
def test_deep_metadata_is_copied_and_left_alone(cross_encoder, depth):
    options = {"path": cross_encoder.folder, "device": "cpu", "dtype": "float32"}
    documents = [Document(page_content=text, metadata={"deep": nested(depth)}) for text in ("绿茶", "红茶")]
    before = copy.deepcopy(documents)
    kept = LangChainReranker(**options).compress_documents(documents, "茶")
    assert documents == before
    for document in kept:
        original = next(one for one in documents if one.page_content == document.page_content)
        assert document.metadata["deep"] == nested(depth)
        assert document.metadata["deep"] is not original.metadata["deep"]
    nodes = [
        NodeWithScore(node=TextNode(text=text, metadata={"deep": nested(depth)}, excluded_embed_metadata_keys=["deep"]))
        for text in ("绿茶", "红茶")
    ]
    ranked = LlamaIndexReranker(**options, keep_retrieval_score=True).postprocess_nodes(nodes, query_str="茶")
    assert [node.node.metadata["deep"] for node in ranked] == [nested(depth)] * 2
    assert all("retrieval_score" not in node.node.metadata for node in nodes)
    assert [node.score for node in ranked] == [document.metadata["relevance_score"] for document in kept]


@pytest.mark.parametrize(
    "documents", [None, 3, "茶", b"x", iter(()), {"茶"}, np.array(["茶"]), (n for n in ()), [None]]
)
def test_what_is_no_list_of_documents_is_refused(cross_encoder, documents):
    options = {"path": cross_encoder.folder, "device": "cpu"}
    with pytest.raises(zr.InputError, match=r"^documents(\[0\])? is "):
        LangChainReranker(**options).compress_documents(documents, "茶")
    with pytest.raises(zr.InputError, match=r"^documents(\[0\])? is "):
        asyncio.run(LangChainReranker(**options).acompress_documents(documents, "茶"))
    with pytest.raises(zr.InputError, match=r"^documents(\[0\])? is "):
        late_chunks(documents, langchain())
    with pytest.raises(zr.InputError, match=r"^nodes(\[0\])? is "):
        LlamaIndexReranker(**options).postprocess_nodes(documents, QueryBundle("茶"))


@pytest.mark.parametrize("query", [None, 3, b"x", ["茶"], "\ud800"])
def test_what_is_no_query_is_refused(cross_encoder, query):
    options = {"path": cross_encoder.folder, "device": "cpu"}
    with pytest.raises(zr.InputError, match=r"pairs\[0\] query "):
        LangChainReranker(**options).compress_documents([Document(page_content="茶")], query)
    with pytest.raises(zr.InputError, match="needs the query"):
        LlamaIndexReranker(**options).postprocess_nodes([NodeWithScore(node=TextNode(text="茶"))], query)


# --- the extremes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_megabytes_of_text_are_cut(encoder):
    text = "今天天气很好，我们去公园散步。" * 230_000
    assert len(text.encode("utf-8")) > 10_000_000
    np.testing.assert_allclose(encoder.encode_documents([text]), encoder.encode_documents([text[:3000]]), atol=1e-5)


def test_twenty_thousand_texts_give_the_vectors_of_one(bert):
    texts = [f"{number}" for number in range(20_000)]
    vectors = bert.encode_documents(texts)
    picked = [0, 1, 777, 10_000, 19_999]
    assert vectors.shape == (20_000, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[picked], [bert.encode_documents([texts[i]])[0] for i in picked], atol=1e-5)
    texts[19_999] = None  # type: ignore[call-overload]
    with pytest.raises(zr.InputError, match=r"^texts\[19999\] "):
        bert.encode_documents(texts)


def test_a_bad_call_fails_alone_among_good_ones(encoder, cross_encoder):
    good = [f"第{number}句{'长' * (number * 7 % 50)}" for number in range(12)]
    poisons = (None, 3, b"x", "\ud800", ["好"], {}, float("nan"), np.array([1]))
    vectors = {text: encoder.encode_documents([text])[0] for text in good}
    scores = {text: cross_encoder.score([("茶", text)])[0] for text in good}
    wrong: list[object] = []

    def use(seed):
        rng = random.Random(seed)
        for _ in range(15):
            texts = rng.sample(good, 3)
            if not np.allclose(encoder.encode_documents(texts), [vectors[text] for text in texts], atol=1e-5):
                wrong.append(texts)
            if not np.allclose(
                cross_encoder.score([("茶", text) for text in texts]), [scores[t] for t in texts], atol=1e-5
            ):
                wrong.append(texts)

    def abuse(seed):
        rng = random.Random(seed)
        for _ in range(60):
            place = rng.randrange(3)
            texts = rng.sample(good, 2)
            texts.insert(place, rng.choice(poisons))
            for call, name in (
                (encoder.encode_documents, "texts"),
                (lambda given: cross_encoder.rank("茶", given), "documents"),
            ):
                try:
                    call(texts)
                    wrong.append(texts)
                except zr.InputError as error:
                    if not str(error).startswith(f"{name}[{place}] "):
                        wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4) for work in (use, abuse)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- lines of files ------------------------------------------------------------------------------------------------

FIELDS = st.dictionaries(
    st.sampled_from(["id", "lang", "embedding", "深"]), st.one_of(TEXTS, SURROGATES, st.none()), max_size=2
)


def as_line(fields):
    return json.dumps(fields).encode()


GOOD_LINES = st.builds(lambda text, fields: (as_line(fields | {"text": text}), "good"), TEXTS, FIELDS)
BAD_LINES = st.one_of(
    st.sampled_from([b"{", b"[1]", b"3", b"null", b'"x"', b"{}", b'{"text": "a"', b"[" * 100_000]),
    st.sampled_from([b'{"text": "\\ud800"}', b'{"text": NaN}', b"9" * 5000]),
    st.sampled_from([b"\xff\xfe", b'{"text": "\xe8\xe8"}', b"\xed\xa0\x80", b"\xef\xbb\xbf{}"]),
    st.builds(lambda value: as_line({"text": value}), st.one_of(st.none(), st.integers(), st.lists(TEXTS, max_size=1))),
    st.builds(lambda title: as_line({"text": "a", "title": title}), st.one_of(st.integers(), SURROGATES)),
).map(lambda line: (line, "bad"))  # fmt: skip
EMPTY_LINES = st.sampled_from([b"", b" ", b"\t"]).map(lambda line: (line, "empty"))


@FUZZ
@given(
    st.lists(st.one_of(GOOD_LINES, GOOD_LINES, BAD_LINES, EMPTY_LINES), max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
)
def test_every_line_is_a_record_or_reported_by_its_number(tmp_path, lines, ending, byte_order_mark):
    file = tmp_path / "in.jsonl"
    file.write_bytes((b"\xef\xbb\xbf" if byte_order_mark else b"") + ending.join(line for line, _ in lines))
    numbers = {kind: [n for n, (_, found) in enumerate(lines, 1) if found == kind] for kind in ("good", "bad")}
    said: list[str] = []
    reader = Reader(text_form("text", "title"), skip=True, say=said.append)
    if file.read_bytes().startswith((b"\xff\xfe", b"\xfe\xff")):  # a file of another encoding
        with pytest.raises(zr.InputError, match=r"^line 1 of .* use --encoding utf-16"):
            list(reader.records(rows_of(*find([str(file)]))))
        return
    records = list(reader.records(rows_of(*find([str(file)]))))
    reported = [re.match(r"skipped line (\d+) of", line) for line in said]
    assert [int(found[1]) for found in reported if found] == numbers["bad"]
    assert reader.skipped == len(numbers["bad"])
    assert [record.where for record in records] == [f"line {number} of {file}" for number in numbers["good"]]
    for record in records:
        assert json.loads(json_text(record.fields).encode("utf-8")) == record.fields
    if numbers["bad"]:
        with pytest.raises(zr.InputError, match=f"^line {numbers['bad'][0]} of "):
            list(Reader(text_form("text", "title")).read([str(file)]))


@FUZZ
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".txt", ".md"]))
def test_any_bytes_are_read_or_refused(tmp_path, content, suffix):
    file = tmp_path / f"in{suffix}"
    file.write_bytes(content)
    for record in Reader(text_form("text", "title"), skip=True).records(rows_of(*find([str(file)]))):
        assert is_text(record.text)
