"""Packed XLM-R cross-encoder and query likelihood against transformers' eager classes."""

import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker
from zh_retrieval.engine.hardware import cpu_computes_bfloat16

SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
LONG = 30  # sentences of a query that is cut, and would leave room for a document
PAIRS = [
    ("天气", SENTENCE),
    ("水", ""),
    ("怎么做饭？", ""),
    ("公园在哪里", SENTENCE * 3),
    ("散步", SENTENCE * 60),
    (SENTENCE * LONG, "短文档" * 60),
    (SENTENCE * LONG, SENTENCE * 50),
]


def plain_ids(folder, text):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer.encode(text, add_special_tokens=False).ids


def published_pair_ids(folder, query, document):
    """`<s> query </s></s> document </s>`: the query is cut to 384 tokens, then the document to what is left."""
    q, d = plain_ids(folder, query), plain_ids(folder, document)
    q = q[:384]
    return [0, *q, 2, 2, *d[: 512 - 4 - len(q)], 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("xlmr"))


@pytest.fixture(scope="module", params=ENGINES)
def reranker(folder, request):
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    with load_by(request.param, zr.load_reranker, "bge-reranker-large", **options) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(folder):
    from transformers import XLMRobertaForSequenceClassification

    model = XLMRobertaForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([published_pair_ids(folder, *pair)])).logits[0, 0].item() for pair in PAIRS]


def test_scores_packed_equal_the_eager_model(reranker, expected):
    np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=1e-5)


def test_scores_alone_equal_the_eager_model(reranker, expected):
    np.testing.assert_allclose([reranker.score([pair])[0] for pair in PAIRS], expected, atol=1e-5)


def test_pair_ids_are_the_published_ones(folder, reranker):
    work = reranker._scoring(PAIRS)
    assert [list(tokens.ids) for tokens in work.prepare(0, len(PAIRS))] == [
        published_pair_ids(folder, *pair) for pair in PAIRS
    ]


def test_cut_pairs_are_counted_in_one_warning(reranker, caplog):
    with caplog.at_level(logging.WARNING, logger="zh_retrieval"):
        reranker.score(PAIRS)
    assert [record.getMessage()[:25] for record in caplog.records] == ["3 of 7 pairs were cut to "]


def test_rank_gives_indices_best_first_with_stable_ties(reranker):
    documents = [SENTENCE, "短文档", SENTENCE, ""]
    ranked = reranker.rank("天气", documents)
    scores = reranker.score([("天气", document) for document in documents])
    assert [entry.index for entry in ranked] == sorted(range(4), key=lambda i: (-scores[i], i))
    assert [entry.index for entry in reranker.rank("天气", documents, top_n=2)] == [e.index for e in ranked[:2]]
    assert reranker.rank("天气", []) == []
    assert reranker.score([]).shape == (0,)


def test_windows_take_the_best_part_of_a_long_document(folder, reranker):
    needle = "公园里有一只猫。"
    document = "经济新闻。" * 300 + needle + "体育比赛。" * 300
    with zr.load_reranker(
        "bge-reranker-large", path=folder, device="cpu", dtype="float32", overflow="window"
    ) as windowed:
        tokens = windowed._scoring([("猫", document)]).prepare(0, 1)
        best = max(windowed._model.engine.run(tokens)[:, 0])
        assert windowed.score([("猫", document)])[0] == pytest.approx(best, abs=1e-5)
        assert windowed.score(PAIRS[:1])[0] == pytest.approx(reranker.score(PAIRS[:1])[0], abs=1e-6)
    whole = plain_ids(folder, document)
    special, query = 4, len(plain_ids(folder, "猫"))
    covered = [list(item.ids[query + 3 : -1]) for item in tokens]
    assert all(len(item.ids) <= 512 for item in tokens)
    assert covered[0] == whole[: 512 - special - query]
    assert covered[-1] == whole[-(512 - special - query) :]
    step = 512 - special - query - (512 - special - query) // 4
    assert len(tokens) == int(np.ceil((len(whole) - (512 - special - query)) / step)) + 1


def test_overlong_pairs_are_refused_when_asked(folder):
    with (
        zr.load_reranker("bge-reranker-large", path=folder, device="cpu", overflow="error") as strict,
        pytest.raises(zr.InputError, match=r"pairs\[4\]"),
    ):
        strict.score(PAIRS)


@pytest.fixture(scope="module", params=["llama", "bloom"])
def causal(request, tmp_path_factory):
    return tiny_causal_lm(tmp_path_factory.mktemp(request.param), kind=request.param)


def likelihood(folder, query, document):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    context, target = plain_ids(folder, f"Document: {document} Query:"), plain_ids(folder, query)
    with torch.no_grad():
        rows = model(torch.tensor([context + target[:-1]])).logits[0, -len(target) :].float().log_softmax(-1)
    return rows.gather(1, torch.tensor(target)[:, None]).mean().item()


def test_query_likelihood_of_any_causal_lm_equals_the_eager_model(causal):
    pairs = [("天气怎么样", SENTENCE), ("猫", ""), ("今天去哪里散步？", SENTENCE * 4), ("做饭", SENTENCE)]
    with zr.load_reranker("rankinggpt", path=causal, device="cpu", dtype="float32") as loaded:
        scores = loaded.score(pairs)
        alone = [loaded.score([pair])[0] for pair in pairs]
    expected = [likelihood(causal, *pair) for pair in pairs]
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    np.testing.assert_allclose(alone, expected, atol=2e-5)


def test_only_document_tokens_are_cut(tmp_path_factory):
    folder = tiny_causal_lm(tmp_path_factory.mktemp("llama"))
    with zr.load_reranker("rankinggpt", path=folder, device="cpu", dtype="float32", max_length=64) as loaded:
        tokens = loaded._scoring([("天气怎么样", SENTENCE * 9)]).prepare(0, 1)[0]
        query, context = plain_ids(folder, "天气怎么样"), plain_ids(folder, f"Document: {SENTENCE * 9} Query:")
        tail = plain_ids(folder, "好。 Query:")[len(plain_ids(folder, "好。")) :]
        assert tokens.targets == tuple(query)
        assert list(tokens.ids) == [*context[: 64 - len(query) - len(tail)], *tail, *query[:-1]]


def test_queries_without_likelihood_are_input_errors(tmp_path_factory):
    folder = tiny_causal_lm(tmp_path_factory.mktemp("llama"))
    with zr.load_reranker("rankinggpt", path=folder, device="cpu", dtype="float32") as loaded:
        with pytest.raises(zr.InputError, match=r"pairs\[1\] has an empty query"):
            loaded.score([("好", "好"), ("", "好")])
        with pytest.raises(zr.InputError, match="leaves no room"):
            loaded.score([(SENTENCE * 60, "好")])


@pytest.mark.skipif(not cpu_computes_bfloat16(), reason="this CPU does not compute in bfloat16")
def test_bfloat16_moves_scores_less_than_a_rounded_head_would(folder):
    pairs = [(SENTENCE[low:], SENTENCE[:high]) for low in range(12) for high in range(2, 22, 2)]
    scores = {}
    for dtype in ("float32", "bfloat16"):
        with zr.load_reranker("bge-reranker-large", path=folder, device="cpu", dtype=dtype) as loaded:
            scores[dtype] = np.array(loaded.score(pairs))
    moved = np.std(scores["bfloat16"] - scores["float32"])  # what all scores have in common changes no order
    assert moved < 0.047 * np.std(scores["float32"])  # 0.036; with the head in bfloat16, 0.061
