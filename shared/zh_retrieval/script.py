"""Which Chinese script a text is in: simplified or traditional.

The two national character sets tell: GB 2312 holds the common characters of simplified text, Big5 those of traditional
text, and Python has both as codecs. A common character of one that the other lacks is of one script only.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

Script = Literal["simplified", "traditional"]

_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_HAN = range(0x4E00, 0xA000)
_GB_COMMON = range(0xB0, 0xD8)  # first bytes of level 1: 3755 characters
_BIG5_COMMON = range(0xA4, 0xC7)  # first bytes of level 1: 5401 characters


def script_of(text: str) -> Script | None:
    """Return the script that more of the text's characters are in alone.

    None where as many are in either one: no Chinese, or characters that both scripts share. Kana makes a text Japanese,
    whose characters are of both: None.
    """
    simplified, traditional = counts(text)
    if simplified == traditional or _KANA.search(text):
        return None
    return "simplified" if simplified > traditional else "traditional"


def counts(text: str) -> tuple[int, int]:
    """Return how many characters are of simplified script alone, and how many of traditional script alone."""
    only_simplified, only_traditional = _tables()
    return sum(character in only_simplified for character in text), sum(char in only_traditional for char in text)


@cache
def _tables() -> tuple[frozenset[str], frozenset[str]]:
    gb = {char: code for char in map(chr, _HAN) if (code := char.encode("gb2312", "ignore"))}
    big5 = {char: code for char in map(chr, _HAN) if (code := char.encode("big5", "ignore"))}
    return (
        frozenset(char for char, code in gb.items() if code[0] in _GB_COMMON and char not in big5),
        frozenset(char for char, code in big5.items() if code[0] in _BIG5_COMMON and char not in gb),
    )
