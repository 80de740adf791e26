"""The first tokens of a long text are those of the whole text, whatever stands in it, and the rest is not read."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import zh_retrieval as zr
from tests.depth import examples
from tests.tiny_models import BUILTIN, tiny_causal_lm, tiny_qwen3, tiny_xlmr_reranker, wordpiece_files
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization import beginnings
from zh_retrieval.tokenization import tokenizer as tokenizers
from zh_retrieval.tokenization.beginnings import Borders, furthest, reach
from zh_retrieval.tokenization.tiktoken import _PATTERN
from zh_retrieval.tokenization.tokenizer import TextTokenizer

SENTENCE = "绿茶要用八十度的水冲泡，红茶要用沸水。Green tea is steeped in water of 80 degrees. "
PIECES = [
    SENTENCE, SENTENCE.replace(" ", ""), "哈", "哈哈", "a", "aaaa", "degrees", "x" * 40, "12", "１２３", " ", "   ",
    "\n", " \n \n", "\r\n", "\t", "。", "」", "...", "--", "'s", "\0", "\u200b", "e\u0301", "\u0301", "は\u3099",
    "ﾊﾞ", "ﾞ", "가", "ᄀ", "ᅡ", "ᆨ", "ﬁ", "㌀", "Σ", "½", "☕", "👩\u200d👧", "🏽", "น้ำ", "𠀀", "\ue000", "<mask>",
    "<s>", "[MASK]", "▁", "##a",
]  # fmt: skip


def byte_level():
    """Return a byte-level BPE with Qwen's pattern, whose merges are of the sentence and of runs."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=letters, special_tokens=["<s>", "<mask>"], show_progress=False
    )
    made.train_from_iterator([SENTENCE, "哈哈哈哈 aaaa    \n\n"] * 20, trainer)
    return made


def one_word():
    """Return a BPE as Mistral's: a text is one word, in which spaces are characters."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    letters = [*sorted(set(SENTENCE)), "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=100, initial_alphabet=letters, special_tokens=["<unk>", "<s>"], show_progress=False
    )
    made.train_from_iterator(["哈哈哈哈", "aaaa", " water", " degrees", "红茶"] * 20, trainer)
    return made


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    wordpiece_files(folder)
    made = {
        "unigram": Tokenizer.from_file(str(BUILTIN / "tokenizer.json")),
        "wordpiece": Tokenizer.from_file(str(folder / "tokenizer.json")),
        "byte-level": byte_level(),
        "one word": one_word(),
    }
    for tokenizer in made.values():
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return {name: TextTokenizer(tokenizer, (), (), ()) for name, tokenizer in made.items()}


@pytest.mark.parametrize("name", ["unigram", "wordpiece", "byte-level", "one word"])
@settings(max_examples=examples(60), deadline=None)
@given(
    parts=st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 400)), min_size=1, max_size=12),
    least=st.sampled_from([1, 2, 9, 40]),
)
def test_a_beginning_is_what_the_whole_text_begins_with(kinds, name, parts, least):
    text = "".join(piece * times for piece, times in parts)[:20_000]
    (found,), (whole,) = kinds[name].beginnings([text], least), kinds[name].ids([text])
    assert found.ids == (whole if found.whole else whole[: len(found.ids)])
    assert found.whole or len(found.ids) >= least


@pytest.fixture
def read(monkeypatch):
    """Count the characters that are tokenized."""
    counted = Counter()
    inner = TextTokenizer._encodings

    def counting(self, texts, batch):
        counted["characters"] += sum(map(len, texts))
        return inner(self, texts, batch)

    monkeypatch.setattr(TextTokenizer, "_encodings", counting)
    return counted


@pytest.mark.parametrize("name", ["unigram", "wordpiece", "byte-level", "one word"])
@pytest.mark.parametrize("text", [SENTENCE, SENTENCE.replace(" ", "").replace("steeped", ""), " \n好，"])
def test_a_long_text_is_not_read_to_its_end(kinds, read, name, text):
    text = text * (200_000 // len(text))
    (found,) = kinds[name].beginnings([text], 100)
    assert not found.whole
    assert read["characters"] <= 5 * reach(100)


@pytest.mark.parametrize("name", ["unigram", "wordpiece", "byte-level", "one word"])
def test_a_text_that_is_one_word_has_the_first_tokens_of_the_whole(kinds, name):
    """Where its tokens are parted depends on how it ends: 4 n + 1 letters are n tokens of four and one more."""
    for length in range(9_001, 9_005):
        text = "哈" * length if name != "wordpiece" else "a" * length
        (found,), (whole,) = kinds[name].beginnings([text], 100), kinds[name].ids([text])
        assert found.ids == whole[:101]
        assert found.whole == (len(whole) <= 101)


@pytest.mark.parametrize("name", ["unigram", "wordpiece", "byte-level", "one word"])
@pytest.mark.parametrize("word", ["a", " ", "\u3000", "\n", "e\u0301", "\u200b", "今"])
def test_a_text_without_a_border_is_not_read_to_its_end(kinds, read, name, word):
    (found,) = kinds[name].beginnings([word * (400_000 // len(word))], 100)
    assert not found.whole
    assert read["characters"] <= 2.5 * furthest(100)
    assert len(found.ids) <= 5 * reach(100)


def test_a_kind_that_nobody_knows_is_not_read_to_its_end_either(read):
    words = Tokenizer(models.WordLevel({"好": 0, "<unk>": 1}, unk_token="<unk>"))
    assert not TextTokenizer(words, (), (), ()).beginnings(["好" * 200_000], 1)[0].whole
    assert read["characters"] <= furthest(1)


@pytest.mark.parametrize("overflow", ["truncate", "error"])
def test_what_stands_behind_much_white_space_is_not_left_out_in_silence(monkeypatch, caplog, overflow):
    monkeypatch.setattr(beginnings, "_FURTHEST", 2**13)
    text = " " * 20_000 + SENTENCE
    with zr.load_encoder("e5-small-zh", device="cpu", overflow=overflow) as encoder:
        if overflow == "error":
            with pytest.raises(zr.InputError, match=r"texts\[0\] has at least 513 tokens"):
                encoder.encode_documents([text])
        else:
            encoder.encode_documents([text])
            assert "1 of 1 texts were cut" in caplog.text


@pytest.mark.parametrize(
    ("name", "made"), [("rankinggpt", tiny_causal_lm), ("qwen3-reranker-0.6b", partial(tiny_qwen3, head=True))]
)
def test_a_prompt_has_the_score_of_the_whole_document(tmp_path, monkeypatch, read, caplog, name, made):
    monkeypatch.setattr(beginnings, "_FURTHEST", 2**13)
    pairs = [("绿茶？", SENTENCE * 200), ("绿茶？", SENTENCE)]
    with zr.load_reranker(name, path=made(tmp_path), device="cpu", max_length=256) as reranker:
        scores = reranker.score(pairs)
        assert read["characters"] < 1.2 * furthest(256) < len(pairs[0][1])
        assert "the document of 1 (the longest has at least" in caplog.text
        with pytest.raises(zr.InputError, match=r"pairs\[1\] has a query"):
            reranker.score([pairs[1], ("a" * 9000, "好")])
        monkeypatch.setattr("zh_retrieval.local.reranker.shortened", lambda text, least: text)
        np.testing.assert_array_equal(reranker.score(pairs), scores)


def test_texts_of_all_lengths_keep_their_places(kinds):
    texts = [SENTENCE[:9], SENTENCE * 90, "好", SENTENCE[3:] * 90, ""]
    found, whole = kinds["unigram"].beginnings(texts, 20), kinds["unigram"].ids(texts)
    assert [each.whole for each in found] == [True, False, True, False, True]
    assert all(each.ids == ids[: len(each.ids)] for each, ids in zip(found, whole, strict=True))


def test_a_kind_that_nobody_knows_is_read_whole():
    words = Tokenizer(models.WordLevel({"好": 0, "<unk>": 1}, unk_token="<unk>"))
    assert not Borders(words).known
    assert TextTokenizer(words, (), (), ()).beginnings(["好" * 9000], 1)[0].whole


def test_few_texts_are_encoded_together(kinds, monkeypatch):
    monkeypatch.setattr(tokenizers, "_TOGETHER", 100)
    assert [len(part) for part in tokenizers._parts(["好" * 40] * 5 + ["好" * 400, "好"])] == [2, 2, 1, 1, 1]
    texts = [SENTENCE[low:] for low in range(20)]
    apart = kinds["unigram"].ids(texts)
    monkeypatch.undo()
    assert apart == kinds["unigram"].ids(texts)


@pytest.mark.parametrize("overflow", ["truncate", "error"])
def test_a_long_text_has_the_vector_of_its_first_tokens(encoder, caplog, overflow):
    text, tokenizer = SENTENCE * 400, encoder.tokenizer
    whole = tokenizer.ids([encoder.spec.format_document(text)])[0]
    if overflow == "error":
        with (
            zr.load_encoder("e5-small-zh", device="cpu", dtype="float32", overflow="error") as strict,
            pytest.raises(zr.InputError, match=r"texts\[1\] has at least 1\d\d\d tokens, expected at most 512"),
        ):
            strict.encode_documents(["好", text])
        return
    rows = encoder._model.scheduler.submit([Tokens(tokenizer.frame(whole, 512))]).result()
    np.testing.assert_array_equal(encoder.encode_documents([text]), rows)
    assert "the longest has at least 1" in caplog.text
    assert encoder.token_counts([text]) == [len(whole) + tokenizer.frame_length]


def test_a_long_pair_has_the_score_of_its_first_tokens(tmp_path, monkeypatch, caplog):
    with zr.load_reranker("bge-reranker-large", path=tiny_xlmr_reranker(tmp_path), device="cpu") as reranker:
        pairs = [(SENTENCE, SENTENCE * 300), (SENTENCE * 8, SENTENCE), (SENTENCE * 8, SENTENCE * 200)]
        scores = reranker.score(pairs)
        assert "(the longest has at least" in caplog.text
        with pytest.raises(zr.InputError, match=r"pairs\[0\] has a query of \d+ tokens or more"):
            reranker.score([(SENTENCE * 300, SENTENCE)])
        monkeypatch.setattr(Borders, "known", False)
        np.testing.assert_array_equal(reranker.score(pairs), scores)
