"""Rerankers that take an instruction, documents that are cut within a prompt, and vectors that are cut short."""

import logging

import numpy as np
import pytest
from tokenizers import Tokenizer

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.golden.test_qwen1 import tiktoken_file
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_qwen3, tiny_xlmr_reranker
from zh_retrieval.tokenization.judgement import judged_texts
from zh_retrieval.tokenization.tiktoken import qwen_tokenizer
from zh_retrieval.tokenization.tokenizer import TextTokenizer

OPTIONS = {"device": "cpu", "dtype": "float32"}
SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def prompt(query, document, instruction):
    return (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_qwen3(tmp_path_factory.mktemp("judge"), head=True)


@pytest.fixture(scope="module", params=ENGINES)
def reranker(folder, request):
    with load_by(request.param, zr.load_reranker, "qwen3-reranker-0.6b", path=folder, **OPTIONS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def bare(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def ids_of(reranker, pair, instruction=None):
    return [list(tokens.ids) for tokens in reranker._scoring([pair], instruction).prepare(0, 1)]


def test_an_instruction_that_every_text_would_carry_is_bounded(reranker, tmp_path):
    with pytest.raises(zr.InputError, match="instruction has 10001 characters, expected at most 10000"):
        reranker.score([("茶", "好")], instruction="a" * 10_001)
    with (
        zr.load_encoder("bge-base-zh", path=tiny_bert(tmp_path), **OPTIONS) as encoder,
        pytest.raises(zr.InputError, match="instruction has 10001 characters"),
    ):
        encoder.encode_queries(["茶"] * 2048, instruction="a" * 10_001)


@pytest.mark.parametrize("instruction", ["找出回答", "{text} {query} {instruction}", ""])
def test_the_instruction_of_a_call_stands_in_the_prompt(reranker, bare, instruction):
    pair = ("{document} 天气", "{text} 好 {instruction}")
    assert ids_of(reranker, pair, instruction) == [bare(prompt(*pair, instruction) + TAIL)]
    score = reranker.score([pair], instruction=instruction)
    assert reranker.rank(pair[0], [pair[1]], instruction=instruction)[0].score == pytest.approx(
        float(score[0]), abs=1e-6
    )
    assert abs(float(score[0] - reranker.score([pair])[0])) > 1e-4


async def test_async_calls_take_the_instruction(reranker):
    pair = ("天气", SENTENCE)
    score = reranker.score([pair], instruction="找")[0]
    assert (await reranker.ascore([pair], instruction="找"))[0] == pytest.approx(float(score), abs=1e-6)
    ranked = await reranker.arank(pair[0], [pair[1]], instruction="找")
    assert ranked[0].score == pytest.approx(float(score), abs=1e-6)


def test_models_without_an_instruction_refuse_one(tmp_path):
    for name, folder in (
        ("bge-reranker-large", tiny_xlmr_reranker(tmp_path / "cross")),
        ("rankinggpt", tiny_causal_lm(tmp_path / "causal")),
    ):
        with zr.load_reranker(name, path=folder, **OPTIONS) as reranker:
            with pytest.raises(zr.ConfigError, match=r"takes no instruction, got '找'\. Leave instruction out"):
                reranker.score([("a", "b")], instruction="找")
            with pytest.raises(zr.ConfigError, match="takes no instruction"):
                reranker.rank("a", ["b"], instruction="找")


def test_an_instruction_that_is_no_text_is_refused(reranker):
    with pytest.raises(zr.ConfigError, match="instruction is int, expected str or None"):
        reranker.score([("a", "b")], instruction=3)


def test_only_the_document_is_cut(folder, bare, caplog):
    pair, web = ("天气怎么样", SENTENCE * 9), zr.get_spec("qwen3-reranker-0.6b").instruction
    whole, tail = bare(prompt(*pair, web)), bare(TAIL)
    room = len(bare(prompt("天气怎么样", "", web))) + len(tail) + 20
    assert len(whole) + len(tail) > room
    with (
        zr.load_reranker("qwen3-reranker-0.6b", path=folder, max_length=room, **OPTIONS) as short,
        caplog.at_level(logging.WARNING, logger="zh_retrieval"),
    ):
        assert ids_of(short, pair) == [whole[: room - len(tail)] + tail]
        short.score([pair, ("天气", "好")])
        assert len(caplog.records) == 1
        with pytest.raises(zr.InputError, match=r"pairs\[1\] has a query and an instruction that take"):
            short.score([("天气", "好"), (SENTENCE * 30, "好")])


def test_windows_show_every_part_of_a_document(folder, bare):
    pair, web = ("天气怎么样", SENTENCE * 9), zr.get_spec("qwen3-reranker-0.6b").instruction
    head, tail = bare(prompt("天气怎么样", "", web)), bare(TAIL)
    whole = bare(prompt(*pair, web))
    limit = len(head) + len(tail) + 40
    options = {"path": folder, "overflow": "window", "max_length": limit, **OPTIONS}
    with zr.load_reranker("qwen3-reranker-0.6b", **options) as windowed:
        tokens = windowed._scoring([pair]).prepare(0, 1)
        seen = [list(item.ids) for item in tokens]
        assert len(seen) > 2
        assert all(ids[-len(tail) :] == tail and len(ids) <= limit for ids in seen)
        assert seen[0][: -len(tail)] == whole[: limit - len(tail)]
        assert seen[-1][: -len(tail)][-30:] == whole[-30:]
        best = max(windowed._model.engine.run(tokens)[:, 0])
        assert windowed.score([pair])[0] == pytest.approx(best, abs=1e-5)


def test_one_text_has_the_ids_of_the_parts_that_the_reference_joins():
    """The card tokenizes prefix, body and suffix apart; with Qwen's own vocabulary that is the same."""
    spec = zr.get_spec("qwen3-reranker-0.6b")
    tokenizer = qwen_tokenizer(tiktoken_file())
    assert [tokenizer.token_to_id(word) for word in spec.answers] == [9693, 2152]
    pairs = [("天气怎么样？", SENTENCE), ("", ""), ("a \n", " b\n\n"), ("What is it?", "The capital is Paris. ")]
    prompts = judged_texts(pairs, spec, None, TextTokenizer(tokenizer, (), (), ()))
    for (query, document), found in zip(pairs, prompts, strict=True):
        head, body = prompt(query, document, spec.instruction).split("<|im_start|>user\n")
        parts = [
            tokenizer.encode(text, add_special_tokens=False).ids for text in (f"{head}<|im_start|>user\n", body, TAIL)
        ]
        assert [*found.head, *found.document, *found.tail] == [token for part in parts for token in part]
        assert found.tail == parts[2]


def test_a_prefix_of_the_vector_is_a_vector(tmp_path):
    folder = tiny_qwen3(tmp_path)
    texts = ["今天天气很好", "好", ""]
    with (
        zr.load_encoder("qwen3-embedding-0.6b", path=folder, **OPTIONS) as whole,
        zr.load_encoder("qwen3-embedding-0.6b", path=folder, dimensions=40, **OPTIONS) as short,
    ):
        assert (whole.dimension, short.dimension) == (64, 40)
        for ours, theirs in (
            (short.encode_queries(texts), whole.encode_queries(texts)),
            (short.encode_documents(texts), whole.encode_documents(texts)),
        ):
            expected = theirs[:, :40] / np.linalg.norm(theirs[:, :40], axis=1, keepdims=True)
            np.testing.assert_allclose(ours, expected, atol=1e-6)
        assert short.encode_queries([]).shape == (0, 40)
    with pytest.raises(zr.ConfigError, match="dimensions=31 must be 32 to the model's own"):
        zr.load_encoder("qwen3-embedding-0.6b", path=folder, dimensions=31, **OPTIONS)
    with pytest.raises(zr.ConfigError, match="dimensions=65 must be 32 to 64 for qwen3"):
        zr.load_encoder("qwen3-embedding-0.6b", path=folder, dimensions=65, **OPTIONS)


@pytest.mark.parametrize(
    ("name", "dimensions", "said"),
    [
        ("bge-base-zh", 64, r"needs a model that was trained for it; bge-base-zh-v1\.5 was not"),
        ("bge-reranker-large", 64, "bge-reranker-large was not"),
        ("qwen3-embedding-4b", 2561, "must be 32 to 2560"),
        ("qwen3-embedding-4b", 0, "dimensions=0 must be a positive whole number, or None"),
    ],
)
def test_other_dimensions_are_refused_before_anything_is_loaded(name, dimensions, said):
    load = zr.load_encoder if zr.get_spec(name).task == "embedding" else zr.load_reranker
    with pytest.raises(zr.ConfigError, match=said):
        load(name, dimensions=dimensions, local_files_only=True)


def test_both_frameworks_cut_vectors_and_say_so_in_their_identity(tmp_path):
    from langchain_zh_retrieval import ModelScopeEmbeddings
    from llama_index_zh_retrieval import ModelScopeEmbedding

    options = {"path": tiny_qwen3(tmp_path), "dimensions": 32, **OPTIONS}
    chain, index = (
        ModelScopeEmbeddings("qwen3-embedding-0.6b", **options),
        ModelScopeEmbedding("qwen3-embedding-0.6b", **options),
    )
    assert len(chain.embed_query("好")) == len(index.get_query_embedding("好")) == 32
    assert chain.identity()["dimensions"] == 32
    assert index.to_dict()["dimensions"] == 32
    with pytest.raises(zr.ConfigError, match="needs a model that was trained for it"):
        ModelScopeEmbeddings("bge-base-zh", path=tiny_bert(tmp_path / "bert"), dimensions=32)
