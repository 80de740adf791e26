"""What BM25 counts, the same in documents and in queries: pairs of characters of Chinese, words of other scripts."""

from __future__ import annotations

import operator
import re
import sys
import unicodedata
from functools import cache

# Han, kana and Hangul: scripts without spaces, or with few. The middle dot between parts of a name (U+30FB) parts them.
_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# What no reader sees: soft hyphens, zero width, directions, variation selectors
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]+")
_MOST_MARKS = 30  # in a row on one letter; UAX #15 "stream-safe text", so that their sorting stays linear


def terms(text: str) -> list[str]:
    """Return the terms of a text in their order: pairs of adjacent Chinese characters, and words.

    The text is folded first (Unicode's NFKC and case folding: full width, half-width kana, ligatures and capitals do
    not count; what is invisible goes). Then each run of Han, kana or Hangul gives its overlapping pairs, a run of one
    character that one; each run of other letters, their marks and digits is a word. All else (punctuation, emoji,
    symbols, `_`) parts runs and is no term. No dictionary; time and memory are linear in the text.

    >>> terms("绿茶ＡＢ用80度水")
    ['绿茶', 'ab', '用', '80', '度水']

    Traditional characters are not made simplified ones: 綠茶 and 绿茶 are two terms. Model: Lucene's CJKAnalyzer.
    """
    runs, marks = _patterns()
    folded = unicodedata.normalize("NFKC", marks.sub(r"\1", _INVISIBLE.sub("", text)))
    folded = unicodedata.normalize("NFKC", folded.casefold())  # again: folding may undo what was composed
    found: list[str] = []
    for match in runs.finditer(folded):
        run = match[0]
        if match.lastindex and len(run) > 1:
            found += map(operator.add, run, run[1:])
        else:
            found.append(run)
    return found


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what finds a run, group 1 if it is Chinese, and what finds more marks on a letter than any script has."""
    marks = _ranges([code for code in range(min(0x1F000, sys.maxunicode)) if _is_mark(code)])
    runs = re.compile(f"([{_CJK}]+)|(?:[^\\W_{_CJK}]+[{marks}]*)+")
    return runs, re.compile(f"([{marks}]{{{_MOST_MARKS}}})[{marks}]+")


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code)).startswith("M")


def _ranges(codes: list[int]) -> str:
    """Return the characters, in order, as a class of a pattern writes them."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in spans)
