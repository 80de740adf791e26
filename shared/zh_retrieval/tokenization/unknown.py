"""Texts that a vocabulary does not know: all of them get nearly one and the same vector, so a call says how many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property

from zh_retrieval.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


class UnknownTexts:
    """Counts the inputs of a call that are mostly unknown to the vocabulary."""

    def __init__(self, tokenizer: TextTokenizer, what: str, template: str = "") -> None:
        """Begin to count.

        Args:
            tokenizer: The vocabulary.
            what: What the inputs are called.
            template: What stands around every text: its tokens do not count.
        """
        self._tokenizer = tokenizer
        self._what = what
        self._template = template
        self._count = 0

    def note(self, ids: Sequence[Sequence[int]], places: Sequence[int]) -> None:
        """Count the inputs that are mostly unknown, template included in their ids.

        Args:
            ids: The bare ids of each different text.
            places: Which of them each input is.
        """
        unknown = self._tokenizer.unknown
        if unknown is None:
            return
        found = {place for place, part in enumerate(ids) if unknown in part and self._mostly(part)}
        if found:
            self.add(place in found for place in places)

    def add(self, flags: Iterable[bool]) -> None:
        """Count the inputs whose flag is set."""
        self._count += sum(flags)

    def _mostly(self, ids: Sequence[int]) -> bool:
        return self._tokenizer.mostly_unknown(ids, self._template_length)

    @cached_property
    def _template_length(self) -> int:
        return len(self._tokenizer.ids([self._template])[0])

    def report(self, count: int) -> None:
        """Log one warning if any of the `count` inputs of the call was mostly unknown."""
        if self._count:
            logger.warning(
                "%d of %d %s are mostly unknown to this model's vocabulary: at least half of their tokens are the "
                "unknown token, so different ones may get the same result. Use a model that knows their script.",
                self._count, count, self._what,
            )  # fmt: skip
