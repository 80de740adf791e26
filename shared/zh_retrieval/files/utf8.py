"""Text that came from bytes, and text that goes into files."""

from __future__ import annotations

import json

from zh_retrieval.errors import InputError


def check_utf8(text: str, where: str) -> None:
    """Raise InputError if `text`, read with errors="surrogateescape", was not valid UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        raise InputError(
            f"{where}: byte 0x{byte:02x} at character {error.start} is not UTF-8. Convert the file, or use "
            "--on-error skip."
        ) from None


def writable(text: str) -> str:
    """Return text that can be written as UTF-8: a lone surrogate becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: object) -> str:
    """Return JSON that can be written as UTF-8; a lone surrogate in it stays the escape that it was."""
    return writable(json.dumps(value, ensure_ascii=False))
