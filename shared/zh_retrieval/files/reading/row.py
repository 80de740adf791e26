"""One row of a file, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        fields: Name -> value, in the file's order; {} where there is an error.
        where: File and line, for messages.
        id: What it is called where no field says it.
        error: What is wrong with it, with `where`; None for a good row.
        types: The Arrow schema of its values, of files that have one.
        blank: It is a line without anything in it: a text of its own in text files, none elsewhere.
    """

    fields: dict[str, Any]
    where: str
    id: str
    error: str | None = None
    types: Any = field(default=None, compare=False, repr=False)
    blank: bool = False
