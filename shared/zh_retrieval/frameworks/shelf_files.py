"""The documents of a lexical index in one file of a folder: settings in its first line, a document in each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_retrieval.errors import CheckpointError, InputError
from zh_retrieval.files.whole import write_whole

FILE = "bm25.jsonl"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """A document as it is saved: what names it, its metadata as they are, and all of it as JSON's values."""

    name: str
    metadata: dict[str, Any]
    values: dict[str, Any]


def save_records(folder: str | Path, framework: str, settings: dict[str, Any], records: Iterable[Record]) -> None:
    """Write the folder's file whole, for `framework` alone: what was there before stays until then.

    Raises:
        InputError: A document holds what JSON cannot give back as it was; the message names it.
        OSError: It cannot be written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    lines = _lines({"framework": framework, **settings}, records)

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines)

    write_whole(target / FILE, write)


def load_records(folder: str | Path, framework: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the settings and the documents.

    Raises:
        CheckpointError: The folder holds no such file, a broken one, or one of another framework.
    """
    path = Path(folder) / FILE
    try:
        with path.open(encoding="utf-8") as stream:
            settings = json.loads(stream.readline() or "{}")
            if not isinstance(settings, dict) or settings.pop("format", None) != _FORMAT:
                raise CheckpointError(f"{path} is not a saved BM25Retriever of this version. Save it anew.")
            records = list(map(json.loads, stream))
    except FileNotFoundError:
        raise CheckpointError(f"{str(folder)!r} holds no {FILE}. Save a BM25Retriever there first.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is broken: {error}. Save it anew.") from None
    if not all(isinstance(record, dict) for record in records) or len(records) != settings.pop("documents", None):
        raise CheckpointError(f"{path} is broken: {len(records)} documents are not what it says. Save it anew.")
    if settings.pop("framework", None) != framework:
        raise CheckpointError(f"{str(folder)!r} was saved by another framework. Load it with that one.")
    return settings, records


def _lines(settings: dict[str, Any], records: Iterable[Record]) -> Iterator[str]:
    taken = list(records)
    yield json.dumps({"format": _FORMAT, **settings, "documents": len(taken)}, ensure_ascii=False) + "\n"
    for record in taken:
        try:
            same = json.loads(json.dumps(record.metadata, allow_nan=False)) == record.metadata
            line = json.dumps(record.values, ensure_ascii=False, allow_nan=False)
            line.encode()
        except (TypeError, ValueError):
            same, line = False, ""
        if not same:
            raise InputError(
                f"The document {record.name[:60]!r} has metadata that JSON cannot give back as it was (text, finite "
                f"numbers, lists and dictionaries by text can be): {str(record.metadata)[:200]}."
            )
        yield line + "\n"
