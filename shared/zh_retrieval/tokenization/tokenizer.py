"""Text to token ids. The recipe, not a transformers class, decides about special tokens and truncation.

The shared `tokenizers.Tokenizer` is only ever asked for bare ids: its truncation and padding state is not
thread-safe, so cutting and framing happen here, on lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zh_retrieval import process
from zh_retrieval.errors import CheckpointError
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.beginnings import Beginning, Borders, furthest, reach

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

_SHORT = 1000  # characters; for a longer text only tokenizers' batches let other threads of Python go on meanwhile
_TOGETHER = 2**18  # characters that are tokenized at once: what comes back takes some 70 bytes for each
_PROBE = "今天天气很好，我们去公园散步。The weather is fine, 1 2 3."


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A vocabulary and the special tokens of one recipe.

    Attributes:
        tokenizer: Gives bare ids; its truncation, padding and post-processor are not used.
        prefix: Ids put before a text.
        suffix: Ids put after a text.
        separator: Ids between query and document of a pair.
        unknown: The id of every character or word that the vocabulary lacks; None if it can write all of them.
        answers: Ids of the words that a language model may answer, the one for a match first.
        typed_pairs: The second text of a pair has tokens of the type 1.
    """

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]
    unknown: int | None = None
    answers: tuple[int, ...] = ()
    typed_pairs: bool = False
    _borders: list[Borders] = field(default_factory=list, init=False, repr=False, compare=False)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bare token ids of each text."""
        return [encoding.ids for encoding in self._encodings(texts, self.tokenizer.encode_batch_fast)]

    def beginnings(self, texts: Sequence[str], least: int) -> list[Beginning]:
        """Return the bare ids of each text; of a long one exactly its first ones, at least `least`, if these are sure.

        What is read of a text grows with `least`, not with the text.
        """
        size, borders = reach(least), self._border_finder()
        long = [index for index, text in enumerate(texts) if len(text) > size]
        if not long:
            return [Beginning(ids, True) for ids in self.ids(texts)]
        found: dict[int, Beginning] = {}
        whole = sorted(set(range(len(texts))) - set(long))
        for index, ids in zip(whole, self.ids([texts[index] for index in whole]), strict=True):
            found[index] = Beginning(ids, True)
        heads = [texts[index][:size] for index in long] if borders.known else []
        for index, head, encoding in zip(
            long, heads, self._encodings(heads, self.tokenizer.encode_batch), strict=False
        ):
            first = borders.first(head, encoding, least)
            if first is not None:
                found[index] = Beginning(first, False)
        for index in long:
            if index not in found:
                found[index] = self._further(texts[index], least, 4 * size)
        return [found[index] for index in range(len(texts))]

    def _further(self, text: str, least: int, size: int) -> Beginning:
        """Return a text's beginning, of more characters each time until the first tokens are sure."""
        most = min(len(text), furthest(least))
        while size < most and self._border_finder().known:
            (encoding,) = self._encodings([text[:size]], self.tokenizer.encode_batch)
            first = self._border_finder().first(text[:size], encoding, least)
            if first is not None:
                return Beginning(first, False)
            size *= 4
        ids = self.ids([text[:most]])[0]
        return Beginning(ids[: least + 1], most == len(text) and len(ids) <= least + 1)

    def _border_finder(self) -> Borders:
        if not self._borders:
            self._borders.append(Borders(self.tokenizer))
        return self._borders[0]

    def ids_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return bare token ids and the half-open character range of each."""
        return next(self.many_with_offsets([text]))

    def many_with_offsets(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """Yield `ids_with_offsets` of each text; a Python list of offsets is larger than its text."""
        for encoding in self._encodings(texts, self.tokenizer.encode_batch):
            yield encoding.ids, encoding.offsets

    def _encodings(self, texts: Sequence[str], batch: Callable[..., list[Encoding]]) -> Iterator[Encoding]:
        """Yield what the tokenizer makes of each text, of about `_TOGETHER` characters at a time."""
        for part in _parts(texts):
            with process.forks_wait():
                if len(texts) == 1 and len(texts[0]) <= _SHORT:  # no thread pool: safe to fork after
                    found = [self.tokenizer.encode(texts[0], add_special_tokens=False)]
                else:
                    found = batch(part, add_special_tokens=False)
            yield from found

    def frame(self, ids: Sequence[int], max_length: int) -> list[int]:
        """Return prefix + ids + suffix, `ids` cut so that the whole is at most `max_length` tokens."""
        room = max_length - len(self.prefix) - len(self.suffix)
        return [*self.prefix, *ids[:room], *self.suffix]

    def mostly_unknown(self, ids: Sequence[int], template: int = 0) -> bool:
        """Return True if at least half of a text's bare ids are the unknown one, `template` known ones not counted."""
        found = ids.count(self.unknown) if self.unknown is not None else 0
        return found > 0 and 2 * found >= len(ids) - template

    @property
    def frame_length(self) -> int:
        """Return how many special tokens `frame` adds."""
        return len(self.prefix) + len(self.suffix)


def build(tokenizer: Tokenizer, spec: ModelSpec, folder: object, *, types: int = 1) -> TextTokenizer:
    """Return the recipe's tokenizer after checking that its special tokens exist and that it knows words.

    `types`: how many types of tokens the model has.

    Raises:
        CheckpointError: A special token is missing, or every word becomes the unknown token.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prefix, suffix, separator, answers = (
        tuple(_special_id(tokenizer, name, spec, folder) for name in names)
        for names in (spec.prefix, spec.suffix, spec.separator, spec.answers)
    )
    _check_probe(tokenizer, folder)
    unknown = next(iter(_unknown_ids(tokenizer)), None)
    return TextTokenizer(tokenizer, prefix, suffix, separator, unknown, answers, spec.typed_pairs and types > 1)


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for text in texts:
        if part and characters + len(text) > _TOGETHER:
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part


def _special_id(tokenizer: Tokenizer, name: str, spec: ModelSpec, folder: object) -> int:
    found = tokenizer.token_to_id(name)
    if found is None:
        raise CheckpointError(
            f"The tokenizer in {folder} lacks {name!r}, which the recipe of {spec.name} needs. "
            "Check that the folder holds the tokenizer of this model."
        )
    return found


def _check_probe(tokenizer: Tokenizer, folder: object) -> None:
    """Refuse a vocabulary that knows nothing; one that knows its own words but not the probe gets a warning."""
    unknown = _unknown_ids(tokenizer)
    if _knows_some(tokenizer, _PROBE, unknown):
        return
    words = [word for word in list(tokenizer.get_vocab())[:200] if not word.startswith(("[", "<"))]
    if not _knows_some(tokenizer, " ".join(words), unknown):
        raise CheckpointError(
            f"The tokenizer in {folder} maps every word to the unknown token. Its vocabulary file is missing or wrong."
        )
    logger.warning("The tokenizer in %s knows no word of a Chinese and English probe: is it the right one?", folder)


def _unknown_ids(tokenizer: Tokenizer) -> list[int]:
    found = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
    return [token for token in found if token is not None]


def _knows_some(tokenizer: Tokenizer, text: str, unknown: list[int]) -> bool:
    return any(token not in unknown for token in tokenizer.encode(text, add_special_tokens=False).ids)
