"""Bytes to text: which encoding a file has, and the guess where it has another."""

from __future__ import annotations

import codecs
import io
from typing import Any, BinaryIO

from zh_retrieval.errors import ConfigError, InputError

UTF8 = "utf-8"
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_SUPERSETS = {"gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs", "utf-8-sig": UTF8}
_MARKS = ((codecs.BOM_UTF8, UTF8), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SAMPLE = 1 << 16  # bytes of a file that are looked at before it is believed to be what it is said to be
_SURE = 12  # bytes that are not ASCII after which valid UTF-8 is no accident


def check_encoding(name: str) -> str:
    """Return Python's name of an encoding of text; that of GB 18030 for GBK and GB 2312, which it contains.

    Raises:
        ConfigError: There is no such encoding.
    """
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True) or found.name in ("idna", "punycode"):
        raise ConfigError(f"--encoding {name[:40]!r} is no encoding of text. Use utf-8, gb18030, big5, utf-16, ...")
    return _SUPERSETS.get(found.name, found.name)


def is_wide(encoding: str) -> bool:
    """Return True if a byte of 10 is not always the end of a line."""
    return encoding in _WIDE


def open_text(stream: BinaryIO, encoding: str, name: str, newline: str | None = None) -> io.TextIOWrapper:
    """Return the text of a file from its beginning; bytes that are none become lone surrogates: see `check_decoded`.

    Raises:
        InputError: It is UTF-8, whatever `encoding` says, or it is not and says so.
    """
    if encoding != UTF8:
        _check_not_utf8(stream, encoding, name)
    else:
        begin = stream.read(4)
        stream.seek(0)
        if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            check_decoded(begin.decode(UTF8, "surrogateescape"), f"line 1 of {name}")
    return decoded(stream, "utf-8-sig" if encoding == UTF8 else encoding, newline)


def decoded(stream: Any, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
    """Return the text of bytes that begin anywhere."""
    errors = "strict" if is_wide(encoding) else "surrogateescape"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline=newline)


def check_decoded(text: str, where: str, encoding: str = UTF8) -> None:
    """Raise InputError if `text`, read with errors="surrogateescape", was not in its encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        guess = looks_like(text.encode("utf-8", "surrogateescape")) if encoding == UTF8 else None
        if guess:
            advice = f"It looks like {guess.upper()}: use --encoding {guess}."
        else:
            advice = "Convert the file, say what it is with --encoding NAME, or use --on-error skip."
        raise InputError(
            f"{where}: byte 0x{byte & 0xFF:02x} at character {error.start} is not {encoding.upper()}. {advice}"
        ) from None


def looks_like(content: bytes) -> str | None:
    """Return the encoding that bytes which are not UTF-8 are probably in: "gb18030", "big5", "utf-16" or None."""
    for mark, encoding in _MARKS[1:]:
        if content.startswith(mark):
            return encoding
    for encoding, common in (("gb18030", "gb2312"), ("big5", "big5")):
        try:
            wide = [char for char in content.decode(encoding) if ord(char) > 0x7F]
        except UnicodeDecodeError:
            continue
        known = sum(1 for char in wide if _has(char, common))
        if wide and known >= 0.9 * len(wide):
            return encoding
    return None


def _has(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _check_not_utf8(stream: BinaryIO, encoding: str, name: str) -> None:
    content = stream.read(_SAMPLE)
    stream.seek(0)
    marked = next((found for mark, found in _MARKS if content.startswith(mark)), None)
    if marked != UTF8:
        try:
            codecs.getincrementaldecoder(UTF8)().decode(content)
        except UnicodeDecodeError:
            return
        if is_wide(encoding) or sum(1 for byte in content if byte > 0x7F) < _SURE:
            return
    raise InputError(f"{name} is UTF-8, not {encoding.upper()}. Leave --encoding out for it.")
