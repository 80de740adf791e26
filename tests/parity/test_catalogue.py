"""Every entry of the catalogue on a tiny random checkpoint, against transformers' eager class and ids made by hand.

One row for each entry: how to write its checkpoint, and its recipe in the words of the model card. An entry without a
row fails. Entries of one row differ in names, places and sizes alone (a test), so the first of them is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.parity import gte_reference
from tests.tiny_models import (
    tiny_bert,
    tiny_causal_lm,
    tiny_gte,
    tiny_mistral,
    tiny_multilingual_bert,
    tiny_qwen3,
    tiny_xlmr,
    tiny_xlmr_reranker,
)

OPTIONS = {"device": "cpu", "dtype": "float32"}
SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
TEXTS = ["", "好", SENTENCE, "Hello world 123", SENTENCE * 6]
PAIRS = [("天气怎么样", SENTENCE), ("猫", ""), ("今天去哪里散步？", SENTENCE * 4), ("dinner", "Hello world")]
WEB = "Given a web search query, retrieve relevant passages that answer the query"


def body(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def classifier(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()


@dataclass(frozen=True)
class Embedder:
    """The model card's recipe: the frame of a sequence, the prompts, the row that is taken."""

    make: Callable[[Path], Path]
    frame: str = "<s> $A </s>"
    query: str = "{}"
    document: str = "{}"
    row: str = "first"
    read: Callable[[Path], Any] = body


@dataclass(frozen=True)
class CrossEncoder:
    make: Callable[[Path], Path]
    read: Callable[[Path], Any] = classifier


@dataclass(frozen=True)
class Likelihood:
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class YesNo:
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Elsewhere:
    """transformers has no such class: a file of outputs of an independent program is compared with instead."""

    file: str


BGE_ZH = Embedder(tiny_bert, "[CLS] $A [SEP]", "为这个句子生成表示以用于检索相关文章：{}")
E5 = Embedder(tiny_xlmr, query="query: {}", document="passage: {}", row="mean")
E5_BERT = Embedder(tiny_multilingual_bert, query="query: {}", document="passage: {}", row="mean")
QWEN3 = Embedder(tiny_qwen3, "$A <|endoftext|>", f"Instruct: {WEB}\nQuery:{{}}", row="last")
F2LLM = Embedder(
    tiny_qwen3,
    "$A <|im_end|>",
    "Instruct: Given a question, retrieve passages that can help answer the question.\nQuery: {}",
    row="last",
)
BLOOM = Likelihood(partial(tiny_causal_lm, kind="bloom"))
JUDGE = YesNo(partial(tiny_qwen3, head=True))
BERT_CLS = Embedder(tiny_bert, "[CLS] $A [SEP]")
BERT_MEAN = Embedder(tiny_bert, "[CLS] $A [SEP]", row="mean")
BERT_DENSE = Elsewhere("tests/checkpoint/test_dense.py")
PICCOLO = Embedder(tiny_bert, "[CLS] $A [SEP]", "查询：{}", "结果：{}", row="mean")
CROSS = CrossEncoder(tiny_xlmr_reranker)

ROWS = {
    "bge-base-zh-v1.5": BGE_ZH,
    "bge-large-zh-v1.5": BGE_ZH,
    "bge-small-zh-v1.5": BGE_ZH,
    "bge-m3": Embedder(partial(tiny_xlmr, positions=8194)),
    "jina-embeddings-v2-base-zh": Elsewhere("tests/golden/test_jina.py"),
    "e5-mistral-7b-instruct": Embedder(tiny_mistral, query=f"Instruct: {WEB}\nQuery: {{}}", row="last"),
    "e5-small-zh": E5_BERT,
    "multilingual-e5-small": E5_BERT,
    "multilingual-e5-base": E5,
    "multilingual-e5-large": E5,
    "multilingual-e5-large-instruct": Embedder(tiny_xlmr, query=f"Instruct: {WEB}\nQuery: {{}}", row="mean"),
    "qwen3-embedding-0.6b": QWEN3,
    "qwen3-embedding-4b": QWEN3,
    "qwen3-embedding-8b": QWEN3,
    "bge-reranker-base": CROSS,
    "bge-reranker-large": CROSS,
    "bge-reranker-v2-m3": CrossEncoder(partial(tiny_xlmr_reranker, positions=8194)),
    "rankinggpt-qwen-7b": Elsewhere("tests/golden/test_qwen1.py"),
    "rankinggpt-bloom-560m": BLOOM,
    "rankinggpt-bloom-1b1": BLOOM,
    "rankinggpt-bloom-3b": BLOOM,
    "rankinggpt-bloom-7b": BLOOM,
    "rankinggpt-llama2-7b": Likelihood(tiny_causal_lm),
    "qwen3-reranker-0.6b": JUDGE,
    "qwen3-reranker-4b": JUDGE,
    "qwen3-reranker-8b": JUDGE,
    **{f"octen-embedding-{size}": QWEN3 for size in ("0.6b", "4b", "8b")},
    **{f"f2llm-v2-{size}": F2LLM for size in ("80m", "160m", "330m", "0.6b", "1.7b")},
    **{f"bge-{size}-zh-v1": BGE_ZH for size in ("small", "base", "large")},
    **{f"gte-{size}-zh": BERT_CLS for size in ("small", "base", "large")},
    **{f"m3e-{size}": BERT_MEAN for size in ("small", "base", "large")},
    "text2vec-base-chinese": BERT_MEAN,
    "piccolo-base-zh": PICCOLO,
    "piccolo-large-zh": PICCOLO,
    "stella-mrl-large-zh-v3.5-1792d": BERT_DENSE,
    "zpoint_large_embedding_zh": BERT_DENSE,
    "ritrieve_zh_v1": BERT_DENSE,
    "yuan-embedding-2.0-zh": BERT_DENSE,
    "bce-embedding-base_v1": Embedder(tiny_xlmr),
    "bce-reranker-base_v1": CROSS,
    "gte-multilingual-base": Embedder(tiny_gte, read=gte_reference.body),
    "gte-multilingual-reranker-base": CrossEncoder(partial(tiny_gte, head="pairs"), read=gte_reference.classifier),
}


COMPUTED = (
    "task", "architecture", "prefix", "suffix", "separator", "pooling", "dense", "query_template", "document_template",
    "instruction", "scoring", "answers",
)  # fmt: skip


def entries(kind):
    """Return the first entry of each row of a kind."""
    firsts = {row: name for name, row in reversed(ROWS.items())}
    return [pytest.param(name, row, id=name) for row, name in reversed(firsts.items()) if isinstance(row, kind)]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return the checkpoint of a row, written once for all entries that share it."""
    made: dict[object, Path] = {}

    def make(row):
        if row not in made:
            made[row] = row.make(tmp_path_factory.mktemp("tiny"))
        return made[row]

    return make


def tokenizer_of(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def framed(folder, frame):
    """Return a tokenizer that frames by itself, which ours is never asked to do."""
    tokenizer = tokenizer_of(folder)
    special = [(word, tokenizer.token_to_id(word)) for word in set(frame.split()) - {"$A", "$B"}]
    kind = "pair" if "$B" in frame else "single"
    tokenizer.post_processor = TemplateProcessing(**{kind: frame}, special_tokens=special)
    return tokenizer


def test_every_entry_has_a_row_and_every_row_an_entry():
    assert sorted(ROWS) == sorted(spec.name for spec in zr.MODELS)


def test_entries_of_one_row_differ_in_names_places_and_sizes_alone():
    said = {}
    for name, row in ROWS.items():
        spec = zr.get_spec(name)
        what = [getattr(spec, field) for field in COMPUTED] + [spec.shape.get("model_type")]
        assert said.setdefault(row, what) == what, name


@pytest.mark.parametrize(("name", "row"), entries(Elsewhere))
def test_an_entry_that_is_proved_elsewhere_is(name, row):
    text = (Path(__file__).parents[2] / row.file).read_text(encoding="utf-8")
    assert any(f'"{known}"' in text for known in (name, *zr.get_spec(name).aliases))


@pytest.mark.parametrize(("name", "row"), entries(Embedder))
def test_vectors_equal_the_eager_class(name, row, folder_of, each_engine):
    folder = folder_of(row)
    tokenizer, model = framed(folder, row.frame), row.read(folder)

    def vector(ids):
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        taken = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(dim=0)}[row.row]
        return torch.nn.functional.normalize(taken, dim=0).numpy()

    with zr.load_encoder(name, path=folder, **OPTIONS) as encoder:
        for template, prepared, encode in (
            (row.query, encoder._queries(TEXTS, None), encoder.encode_queries),
            (row.document, encoder._documents(TEXTS), encoder.encode_documents),
        ):
            expected = [tokenizer.encode(template.format(text)).ids for text in TEXTS]
            assert [list(tokens.ids) for tokens in prepared.prepare(0, len(TEXTS))] == expected
            np.testing.assert_allclose(encode(TEXTS), [vector(ids) for ids in expected], atol=1e-5)


def assert_scores(name, folder, expected_ids, score):
    """Compare ids and scores of PAIRS; `score(ids, query)` is the reference."""
    with zr.load_reranker(name, path=folder, **OPTIONS) as reranker:
        ids = [list(tokens.ids) for tokens in reranker._scoring(PAIRS).prepare(0, len(PAIRS))]
        assert ids == expected_ids
        together, alone = reranker.score(PAIRS), [reranker.score([pair])[0] for pair in PAIRS]
    expected = [score(ids, query) for ids, (query, _) in zip(expected_ids, PAIRS, strict=True)]
    np.testing.assert_allclose(together, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "row"), entries(CrossEncoder))
def test_logits_equal_the_eager_class(name, row, folder_of, each_engine):
    folder = folder_of(row)
    tokenizer, model = framed(folder, "<s> $A </s> </s> $B </s>"), row.read(folder)

    def logit(ids, _):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, 0].item()

    assert_scores(name, folder, [tokenizer.encode(*pair).ids for pair in PAIRS], logit)


def causal_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize(("name", "row"), entries(Likelihood))
def test_likelihoods_equal_the_eager_class(name, row, folder_of):
    folder = folder_of(row)
    model, tokenizer = causal_model(folder), tokenizer_of(folder)

    def bare(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    def likelihood(ids, query):
        targets = bare(query)
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0, -len(targets) :].log_softmax(-1)
        return rows.gather(1, torch.tensor(targets)[:, None]).mean().item()

    expected = [bare(f"Document: {document} Query:") + bare(query)[:-1] for query, document in PAIRS]
    assert_scores(name, folder, expected, likelihood)


@pytest.mark.parametrize(("name", "row"), entries(YesNo))
def test_answers_equal_the_eager_class(name, row, folder_of, each_engine):
    folder = folder_of(row)
    model, tokenizer = causal_model(folder), tokenizer_of(folder)
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")

    def margin(ids, _):
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        return (rows[yes] - rows[no]).item()

    expected = [
        tokenizer.encode(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            f"<Instruct>: {WEB}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n"
            "<think>\n\n</think>\n\n",
            add_special_tokens=False,
        ).ids
        for query, document in PAIRS
    ]
    assert_scores(name, folder, expected, margin)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), entries(Embedder))
def test_both_frameworks_give_these_vectors_and_int8_stays_close(name, row, folder_of):
    folder = folder_of(row)
    with zr.load_encoder(name, path=folder, **OPTIONS) as encoder:
        documents, queries = encoder.encode_documents(TEXTS), encoder.encode_queries(TEXTS)
    chain, engine = (cls(name, path=folder, **OPTIONS) for cls in (lc.ModelScopeEmbeddings, li.ModelScopeEmbedding))
    np.testing.assert_allclose(chain.embed_documents(TEXTS), documents, atol=1e-5)
    np.testing.assert_allclose(engine.get_text_embedding_batch(TEXTS), documents, atol=1e-5)
    for text, vector in zip(TEXTS, queries, strict=True):
        np.testing.assert_allclose(chain.embed_query(text), vector, atol=1e-5)
        np.testing.assert_allclose(engine.get_query_embedding(text), vector, atol=1e-5)
    with zr.load_encoder(name, path=folder, device="cpu", quantization="int8") as rounded:
        assert (rounded.encode_documents(TEXTS) * documents).sum(axis=1).min() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), [*entries(CrossEncoder), *entries(Likelihood), *entries(YesNo)])
def test_both_frameworks_give_these_scores_and_int8_stays_close(name, row, folder_of):
    folder, (query, _), texts = folder_of(row), PAIRS[0], [SENTENCE, "Hello world", SENTENCE * 4]
    with zr.load_reranker(name, path=folder, **OPTIONS) as reranker:
        scores = reranker.score([(query, text) for text in texts])
    settings = {"path": folder, "normalize": "none", "top_n": len(texts), **OPTIONS}
    chain, engine = (framework.ModelScopeReranker(name, **settings) for framework in (lc, li))
    expected = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
    documents = chain.compress_documents([Document(page_content=text) for text in texts], query)
    nodes = engine.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in texts], query_str=query)
    found = [(document.page_content, document.metadata["relevance_score"]) for document in documents]
    for ranked in (found, [(node.node.text, node.score) for node in nodes]):
        assert [text for text, _ in ranked] == [text for text, _ in expected]
        np.testing.assert_allclose([score for _, score in ranked], [score for _, score in expected], atol=1e-5)
    if row is BLOOM:  # has no graph
        with pytest.raises(zr.ConfigError, match="quantization='int8' cannot be had"):
            zr.load_reranker(name, path=folder, device="cpu", quantization="int8")
        return
    with zr.load_reranker(name, path=folder, device="cpu", quantization="int8") as rounded:
        assert np.abs(rounded.score([(query, text) for text in texts]) - scores).max() < 0.15
