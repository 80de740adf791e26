"""JSON lines and lines of text: a row each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import UTF8, check_decoded
from zh_retrieval.files.reading.row import Row


def line_rows(lines: Iterable[str], name: str, as_json: bool, encoding: str = UTF8, *, first: int = 1) -> Iterator[Row]:
    """Yield a row for each line: a JSON object, or the line itself; `first` is the number of the first one."""
    for number, line in enumerate(lines, first):
        yield line_row(line, number, name, as_json, encoding)


def line_row(line: str, number: int, name: str, as_json: bool, encoding: str = UTF8) -> Row:
    """Return the row of one line, with or without its end."""
    where, content = f"line {number} of {name}", line.rstrip("\n")
    id = where if as_json else f"{name}:{number}"
    blank = not content.strip()
    if as_json and blank:
        return Row({}, where, id, blank=True)
    try:
        check_decoded(content, where, encoding)
        fields = _object(content, where) if as_json else {"id": id, "text": content}
    except InputError as error:
        return Row({}, where, id, str(error))
    return Row(fields, where, id, blank=blank)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        advice = "Write one object a line." if line.lstrip()[0] == "[" else "Mend it, or use --on-error skip."
        raise InputError(f"{where}: not valid JSON ({error}). {advice}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(fields).__name__}. Write one object a line.")
    return fields
