"""Late chunking before any compute: every span has tokens in its window, in time that grows with the text."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.depth import examples
from tests.tiny_models import BUILTIN, wordpiece_files
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.local.late_chunking import Chunking
from zh_retrieval.tokenization.late_chunks import best_window, macro_windows
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.vocabulary import load_vocabulary

TEMPLATES = ("{text}", "passage: {text}", "文：{text}。完")


def unigram(_):
    tokenizer = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer


def wordpiece(folder):
    """Return BERT's scheme, whose normalizer drops control, private and unassigned characters and lone marks."""
    wordpiece_files(folder)
    (folder / "tokenizer.json").unlink()
    return load_vocabulary(folder)


def bytes_pairs(_):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


@pytest.fixture(scope="module", params=[unigram, wordpiece, bytes_pairs])
def tokenizer(request, tmp_path_factory):
    return TextTokenizer(request.param(tmp_path_factory.mktemp("vocabulary")), (0,), (2,), ())


def prepared(document, spans, tokenizer, template="{text}", max_length=12):
    """Return the token ranges of the spans, each with the length of the window it is read in."""
    work = Chunking(document, spans, tokenizer, template, max_length, 8)
    return [(span, len(tokens.ids)) for tokens in work.prepare(0, 1) for span in tokens.spans]


ODD = "\u200b\ufeff\u200d\x07\ufe0f\U000e0100\u0301\ue000\u0378\U0010ffff\u3000\xad\x00\x85。！\n .好a"
DOCUMENTS = st.text(st.one_of(st.sampled_from(ODD), st.characters(codec="utf-8")), max_size=40)


@settings(max_examples=examples(300), deadline=None)
@given(DOCUMENTS, st.sampled_from(TEMPLATES), st.integers(1, 20))
@example("好。\u200b", "{text}", 2)
@example("\x07。好", "passage: {text}", 1)
def test_a_documents_own_spans_and_every_character_have_tokens(tokenizer, document, template, size):
    for spans in (sentence_spans(document, size), [(place, place + 1) for place in range(len(document))]):
        ranges = prepared(document, spans, tokenizer, template)
        assert len(ranges) == len(spans)
        assert all(0 <= low < high <= length for (low, high), length in ranges)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_the_best_window_holds_most_and_is_most_central(count, room, data):
    windows = macro_windows(count, room)
    low = data.draw(st.integers(0, count - 1))
    span = low, data.draw(st.integers(low + 1, count))

    def rank(index):
        start, end = windows[index]
        return min(span[1], end) - max(span[0], start), min(span[0] - start, end - span[1])

    assert best_window(span, windows) == max(range(len(windows)), key=rank)


class CountedList(list):
    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        return super().__getitem__(index)


class CountedText(str):
    __slots__ = ("looks",)

    def __getitem__(self, index):
        found = super().__getitem__(index)
        self.looks = getattr(self, "looks", 0) + len(found)
        return found


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_span_looks_at_few_of_many_windows(count):
    windows = CountedList(macro_windows(count, 16))
    for low in range(0, count - 5, 997):
        windows.looks = 0
        best_window((low, low + 5), windows)
        assert windows.looks <= math.log2(len(windows)) + 6


@pytest.mark.parametrize("part", ["\u200b\n", "\u200b", "好。\u200b\n", "好好好好。"])
def test_sentences_look_at_each_character_a_few_times(part):
    text = CountedText(part * 5_000)
    sentence_spans(text, 3)
    assert text.looks <= 4 * len(text)
