"""Text to token ids. The recipe, not a transformers class, decides about special tokens and truncation.

The shared `tokenizers.Tokenizer` is only ever asked for bare ids: its truncation and padding state is not
thread-safe, so cutting and framing happen here, on lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zh_retrieval import process
from zh_retrieval.errors import CheckpointError
from zh_retrieval.recipes.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

_SHORT = 1000  # characters; for a longer text only tokenizers' batches let other threads of Python go on meanwhile
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
    """

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]
    unknown: int | None = None
    answers: tuple[int, ...] = ()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bare token ids of each text."""
        return [encoding.ids for encoding in self._encodings(texts, self.tokenizer.encode_batch_fast)]

    def ids_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return bare token ids and the half-open character range of each."""
        return self.many_with_offsets([text])[0]

    def many_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Return `ids_with_offsets` of each text."""
        encodings = self._encodings(texts, self.tokenizer.encode_batch)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def _encodings(self, texts: Sequence[str], batch: Callable[..., list[Encoding]]) -> list[Encoding]:
        with process.forks_wait():
            if len(texts) == 1 and len(texts[0]) <= _SHORT:  # no thread pool: safe to fork after
                return [self.tokenizer.encode(texts[0], add_special_tokens=False)]
            return batch(list(texts), add_special_tokens=False)

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


def build(tokenizer: Tokenizer, spec: ModelSpec, folder: object) -> TextTokenizer:
    """Return the recipe's tokenizer after checking that its special tokens exist and that it knows words.

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
    return TextTokenizer(tokenizer, prefix, suffix, separator, unknown, answers)


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
