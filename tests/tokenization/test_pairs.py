"""Pairs to sequences: what fits is whole, and what is cut is counted."""

import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import zh_retrieval as zr
from tests.depth import examples
from tests.tiny_models import BUILTIN, tiny_causal_lm, tiny_xlmr_reranker
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.tokenization.cuts import PairCuts
from zh_retrieval.tokenization.pairs import Context, context, cross_encoder_pair, query_likelihood_pair
from zh_retrieval.tokenization.tokenizer import build
from zh_retrieval.usage import Usage

XLMR = build(Tokenizer.from_file(str(BUILTIN / "tokenizer.json")), get_spec("bge-reranker-large"), BUILTIN)
SPECIAL = XLMR.frame_length + len(XLMR.separator)
IDS = st.integers(0, 60).map(lambda count: list(range(100, 100 + count)))


@given(IDS, IDS, st.integers(8, 80), st.booleans())
@example(list(range(100, 140)), list(range(100, 105)), 49, False)  # a query over 3/4, and the pair fits exactly
@example(list(range(100, 140)), list(range(100, 105)), 48, True)  # and one token more than fits
def test_a_cross_encoder_pair_that_fits_is_whole_and_what_is_cut_is_counted(query, document, limit, windows):
    room = limit - SPECIAL - len(query)
    if not query or (room < 1 and (document or room < 0)):
        with pytest.raises(zr.InputError, match=r"^pairs\[7\] has (an empty query|a query of \d+ )"):
            cross_encoder_pair(query, document, XLMR, limit, windows, 7)
        return
    pair = cross_encoder_pair(query, document, XLMR, limit, windows)
    assert pair.length == SPECIAL + len(query) + len(document)
    assert all(len(tokens.ids) <= limit for tokens in pair.tokens)
    whole = [*XLMR.prefix, *query, *XLMR.separator, *document, *XLMR.suffix]
    if pair.length <= limit:
        assert [list(tokens.ids) for tokens in pair.tokens] == [whole]
        assert pair.query_cut == pair.document_cut == 0
        return
    kept = len(query) - pair.query_cut
    head = [*XLMR.prefix, *query[:kept], *XLMR.separator]
    assert kept == len(query) or kept <= limit * 3 // 4
    assert all(list(tokens.ids[: len(head)]) == head for tokens in pair.tokens)
    held = [token for tokens in pair.tokens for token in tokens.ids[len(head) : -len(XLMR.suffix)]]
    assert len(document) - len(set(held)) == pair.document_cut
    assert pair.query_cut or pair.document_cut or windows
    assert not (windows and pair.document_cut)


@given(IDS.filter(bool), IDS, st.integers(8, 80), st.booleans())
def test_a_query_likelihood_pair_that_fits_is_whole_and_what_is_cut_is_counted(query, document, limit, windows):
    prompt = Context([1, 2], document, [3])
    length = 3 + len(document) + len(query)
    if length > limit and 3 + len(query) >= limit:
        with pytest.raises(zr.InputError, match=rf"^pairs\[7\] has a query of {len(query)} tokens"):
            query_likelihood_pair(query, prompt, 7, XLMR, limit, windows)
        return
    pair = query_likelihood_pair(query, prompt, 7, XLMR, limit, windows)
    assert pair.length == length
    assert pair.query_cut == 0
    assert all(tokens.targets == tuple(query) for tokens in pair.tokens)
    held = {token for tokens in pair.tokens for token in tokens.ids[2 : len(tokens.ids) - len(query)]}
    assert len(document) - len(held) == pair.document_cut
    assert (pair.document_cut > 0) == (length > limit and not windows)


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=20), st.sampled_from(["Document: {} Query:", "{}", "文档：{}。"]))
def test_a_prompt_is_parted_where_tokens_end_behind_the_documents_borders(document, template):
    text, start = template.format(document), template.index("{}")
    ids, offsets = XLMR.ids_with_offsets(text)
    found = context(text, start, start + len(document), XLMR)
    low = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
    high = next((i for i, (_, end) in enumerate(offsets) if end > start + len(document)), len(ids))
    assert (found.head, found.document, found.tail) == (ids[:low], ids[low:high], ids[high:])


def test_the_warning_counts_queries_and_documents(caplog):
    cuts = PairCuts("truncate", 40, Usage())
    pairs = [(range(35), range(2)), (range(5), range(90)), (range(35), range(90)), (range(32), range(4))]
    with caplog.at_level(logging.WARNING, logger="zh_retrieval"):
        for index, (query, document) in enumerate(pairs):
            cuts.note(index, cross_encoder_pair(list(query), list(document), XLMR, 40, windows=False))
        cuts.report(len(pairs))
    (record,) = caplog.records
    assert "3 of 4 pairs were cut to 40 tokens: the query of 2, the document of 2" in record.getMessage()
    assert "(the longest has 129)" in record.getMessage()


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory):
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))


def load(folder, overflow, model="bge-reranker-large", **options):
    return zr.load_reranker(model, path=folder, device="cpu", dtype="float32", overflow=overflow, **options)


QUERY = "今天天气很好，我们去公园散步。"
LONG_QUERY = QUERY * 3 + QUERY[:9]  # more than three quarters of 40 tokens, and less than leaves no room


def test_error_takes_every_pair_that_fits_and_names_the_true_length(xlmr):
    query, document = QUERY * 4, "好"
    length = SPECIAL + sum(map(len, XLMR.ids([query, document])))
    with load(xlmr, "error", max_length=length) as strict, load(xlmr, "truncate") as loose:
        assert strict.score([(query, document)])[0] == pytest.approx(loose.score([(query, document)])[0], abs=1e-5)
    with load(xlmr, "error", max_length=length - 1) as strict, pytest.raises(zr.InputError) as error:
        strict.score([("好", "好"), (query, document)])
    assert str(error.value).startswith(f"pairs[1] has {length} tokens, expected at most {length - 1}.")


def test_windows_cut_no_query_silently(xlmr, caplog):
    with load(xlmr, "window", max_length=40) as windowed, caplog.at_level(logging.WARNING, logger="zh_retrieval"):
        windowed.score([("天气", QUERY * 9)])
        assert caplog.records == []
        windowed.score([("天气", QUERY * 9), (LONG_QUERY, QUERY)])
    (record,) = caplog.records
    assert "1 of 2 pairs were cut to 40 tokens: the query of 1, the document of 0" in record.getMessage()


def test_error_takes_a_query_likelihood_pair_that_fits(tmp_path):
    folder = tiny_causal_lm(tmp_path)
    (query,) = XLMR.ids([QUERY])
    length = len(XLMR.ids([f"Document: {QUERY} Query:"])[0]) + len(query)
    with load(folder, "error", "rankinggpt", max_length=length) as strict:
        strict.score([(QUERY, QUERY)])
    with load(folder, "error", "rankinggpt", max_length=length - 1) as strict, pytest.raises(zr.InputError) as error:
        strict.score([(QUERY, QUERY)])
    assert str(error.value).startswith(f"pairs[0] has {length} tokens, expected at most {length - 1}.")
