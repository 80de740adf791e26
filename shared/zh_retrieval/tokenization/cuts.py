"""What a call of a reranker cuts from its pairs: counted and said once, or refused."""

from __future__ import annotations

import logging

from zh_retrieval.errors import InputError
from zh_retrieval.options import Overflow
from zh_retrieval.tokenization.pairs import PairSequences
from zh_retrieval.usage import Usage

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

    def note(self, index: int, pair: PairSequences) -> None:
        """Record what pair `index` lost.

        Raises:
            InputError: It lost something, and overflow is "error".
        """
        if not (pair.query_cut or pair.document_cut):
            return
        if self._overflow == "error":
            raise InputError(
                f"pairs[{index}] has {pair.length} tokens, expected at most {self._max_length}. "
                "Shorten it, or use overflow='truncate' or 'window'."
            )
        self._used.cut += 1
        self._used.lost += pair.query_cut + pair.document_cut
        self._queries += pair.query_cut > 0
        self._documents += pair.document_cut > 0
        self._longest = max(self._longest, pair.length)

    def report(self, count: int) -> None:
        """Log one warning if anything was cut from the `count` pairs of the call."""
        if self._used.cut:
            what = "queries" if self._overflow == "window" else "texts"
            logger.warning(
                "%d of %d pairs were cut to %d tokens: the query of %d, the document of %d (the longest pair has %d). "
                "Shorten the %s, or use overflow='error'.",
                self._used.cut, count, self._max_length, self._queries, self._documents, self._longest, what,
            )  # fmt: skip
