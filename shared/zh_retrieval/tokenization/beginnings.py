"""The first tokens of a long text, without tokenizing the rest of it.

A text whose end is cut off need not be tokenized to its end. But the tokens of a text that was cut after some character
are not the first tokens of the whole: a word or a token that the cut went through comes out differently, and in a body
of text without spaces such a change can reach far back. So only tokens before a border are taken that no token, word or
normalization of the whole text can reach across.

A text without any border (one word of millions of letters, white space) is read up to `furthest` all the same: beyond
that, what reading it costs is worse than a few tokens that its end might have changed.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_MARGIN = 64  # characters between a border and the cut: more than special tokens and what a pattern looks ahead
_PER_TOKEN = 6  # characters of a usual text that surely hold a token
_FURTHEST = 2**15  # characters that are read of a text without a border
_SCANS = 64  # neighbours that are looked for in the vocabulary, of one text
_MODELS = ("WordPiece", "BPE", "Unigram")
_PLAIN = "LNPZ"  # letters, numbers, punctuation, white space: nothing that joins with what is beside it
_JAMO = range(0x1100, 0x1200)  # letters that join to Korean syllables


class Beginning(NamedTuple):
    """The ids of a text, or, where it is not whole, at least as many of the first ones as were asked for.

    Fewer only where the first `furthest` characters hold fewer.
    """

    ids: list[int]
    whole: bool


def reach(least: int) -> int:
    """Return up to how many characters a text is tokenized whole where `least` tokens of it are wanted."""
    return _PER_TOKEN * least + 4 * _MARGIN


def furthest(least: int) -> int:
    """Return how many characters of a text are tokenized at most where `least` tokens of it are wanted."""
    return max(_FURTHEST, 4 * reach(least))


def shortened(text: str, least: int) -> str:
    """Return a text without its middle, if it is longer than what is read.

    For a prompt that goes on behind the text: the tokens there depend on how the text ends.
    """
    most = furthest(least)
    return text if len(text) <= most + _MARGIN else text[:most] + text[-_MARGIN:]


class Borders:
    """Finds where the tokens of a cut text are the first tokens of the whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._together: dict[str, bool] = {}

    @cached_property
    def known(self) -> bool:
        """Return True if borders can be told for this kind of tokenizer."""
        model = self._tokenizer.model
        affixes = (getattr(model, "continuing_subword_prefix", None), getattr(model, "end_of_word_suffix", None))
        return type(model).__name__ in _MODELS and (type(model).__name__ == "WordPiece" or not any(affixes))

    def first(self, text: str, encoding: Encoding, least: int) -> list[int] | None:
        """Return the ids that every text with this beginning starts with; None if fewer than `least` are that sure.

        Args:
            text: The beginning.
            encoding: All of its tokens.
            least: How many are wanted.
        """
        ids, offsets, words = encoding.ids, encoding.offsets, encoding.word_ids
        end, scans = len(text) - _MARGIN, _SCANS
        for place in range(len(ids) - 1, max(least, 1) - 1, -1):  # the last border: what is lost is counted from it
            low = offsets[place][0]
            if low > end:
                continue
            before, after = words[place - 1], words[place]
            if before is None or after is None or offsets[place - 1][1] > low or not _plain(text, low):
                continue
            if before != after:
                return ids[:place]
            scans -= 1
            if scans >= 0 and not self._joins(ids[place - 1], ids[place]):
                return ids[:place]
        return None

    def _joins(self, left: int, right: int) -> bool:
        """Return True if some token of the vocabulary may hold the end of one token and the start of the next.

        In one word BPE merges and Unigram's best path are the same on each side of two characters that no token holds
        side by side: every way to part the word parts it there. WordPiece may refuse a whole word for its end.
        """
        first, second = (self._tokenizer.id_to_token(token) for token in (left, right))
        if type(self._tokenizer.model).__name__ == "WordPiece" or not first or not second:
            return True
        if left in self._nameless or right in self._nameless or _is_tag(first) or _is_tag(second):
            return True
        pair = first[-1] + second[0]
        if pair not in self._together:
            self._together[pair] = pair in self._vocabulary
        return self._together[pair]

    @cached_property
    def _nameless(self) -> set[int]:
        """Return the ids whose names are not what stands in the text: unknown and special tokens."""
        unknown = self._tokenizer.token_to_id(getattr(self._tokenizer.model, "unk_token", None) or "<unk>")
        return {*self._tokenizer.get_added_tokens_decoder(), *(() if unknown is None else (unknown,))}

    @cached_property
    def _vocabulary(self) -> str:
        return "\n".join(self._tokenizer.get_vocab())


def _is_tag(token: str) -> bool:
    """Return True for a name such as that of one byte, `<0xE4>`."""
    return token.startswith("<") and token.endswith(">")


def _plain(text: str, place: int) -> bool:
    """Return True if normalization leaves what is before and after a place apart, and no white space reaches the cut.

    White space is one for a pattern up to its end, so some other character has to follow soon.
    """
    left, right = text[place - 1], text[place]
    normal = unicodedata.normalize("NFKC", right)[0]
    return (
        all(unicodedata.category(each)[0] in _PLAIN or each == "\n" for each in (left, right, normal))
        and ord(normal) not in _JAMO
        and not text[place : place + _MARGIN].isspace()
    )
