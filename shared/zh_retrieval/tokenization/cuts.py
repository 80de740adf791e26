"""What a call of a reranker cuts from its pairs: counted and said once, or refused."""

from __future__ import annotations

import logging

from zh_retrieval.errors import InputError
from zh_retrieval.options import Overflow
from zh_retrieval.tokenization.pairs import PairSequences
from zh_retrieval.usage import Usage, counting

logger = logging.getLogger(__name__)


class PairCuts:
    """Counts the queries and documents that a call cuts."""

    def __init__(self, overflow: Overflow, max_length: int, used: Usage) -> None:
        """Cuts are counted in `used` too."""
        self._overflow = overflow
        self._max_length = max_length
        self._used = used
        self._queries = 0
        self._documents = 0
        self._longest = 0
        self._whole = True

    def note(self, index: int, pair: PairSequences) -> None:
        """Record what pair `index` lost.

        Raises:
            InputError: It lost something, and overflow is "error".
        """
        if not (pair.query_cut or pair.document_cut):
            return
        length = pair.length if pair.whole else max(pair.length, self._max_length + 1)
        if self._overflow == "error":
            raise InputError(
                f"pairs[{index}] has {'' if pair.whole else 'at least '}{length} tokens, expected at most "
                f"{self._max_length}. "
                "Shorten it, or use overflow='truncate' or 'window'."
            )
        self._used.cut += 1
        self._used.lost += pair.query_cut + pair.document_cut
        self._queries += pair.query_cut > 0
        self._documents += pair.document_cut > 0
        self._longest = max(self._longest, length)
        self._whole = self._whole and pair.whole

    def report(self, count: int) -> None:
        """Log one warning if anything was cut from the `count` pairs, unless the caller counts what is cut."""
        if self._used.cut and not counting():
            what = "queries" if self._overflow == "window" else "texts"
            logger.warning(
                "%d of %d pairs were cut to %d tokens: the query of %d, the document of %d (the longest has %s%d). "
                "Shorten the %s, or use overflow='error'.",
                self._used.cut, count, self._max_length, self._queries, self._documents,
                "" if self._whole else "at least ", self._longest, what,
            )  # fmt: skip
