"""Which form a folder or file has, and the dataset in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.pairs import add_pairs, looks_like_pairs
from zh_retrieval.evaluation.reading.rows import format_of, judgements, records
from zh_retrieval.evaluation.reading.tables import Tables, find_tables
from zh_retrieval.files.reading.encodings import UTF8, check_decoded, check_encoding, open_text
from zh_retrieval.files.reading.formats.columns import named

_FORMS = (
    "corpus.jsonl, queries.jsonl and qrels/*.tsv as BEIR has them; the same three as Parquet or Arrow in folders of "
    "those names, as mteb has them, or as .csv or .tsv; a .json of LlamaIndex with queries, corpus and "
    "relevant_docs; or a table of questions with their passages: .csv, .tsv or .jsonl with the columns question and "
    "passage (问题, 答案)"
)
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".et", ".numbers")
_PREFERRED = ("test", "dev", "validation", "val", "train")


def read_dataset(
    source: str | Path, *, split: str | None = None, encoding: str = UTF8, preferred: Sequence[str] = _PREFERRED
) -> Dataset:
    """Return the dataset in a folder or file.

    Args:
        source: A folder with `corpus`, `queries` and `qrels` (BEIR's and mteb's layouts), LlamaIndex's JSON file, or a
            table of questions with their passages: CSV, TSV, JSONL, Parquet.
        split: Which judgements, where there are several; "all" for all of them. By default the first of `preferred`.
        encoding: Of all files that are text: "utf-8", "gb18030" (which GBK is part of, and Excel writes in China), ...
        preferred: Splits to take if `split` is None, the first of them that is there.

    Raises:
        InputError: It is none of these, or a file cannot be read.
        ConfigError: There is no such split, or no such encoding.
    """
    encoding = check_encoding(encoding)
    path = Path(source).expanduser()
    if path.is_file():
        return _read_file(path, path.stem, encoding)
    if not path.is_dir():
        raise InputError(f"{source} is neither a folder nor a file. Give a folder with {_FORMS}.")
    folder = _snapshot(path)
    tables = find_tables(folder)
    if tables.corpus and tables.queries and tables.qrels:
        return _from_tables(tables, path.resolve().name, split, encoding, preferred)
    if not tables.corpus and not tables.queries:
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and _may_be_pairs(file)]
        if len(files) == 1:
            return _read_file(files[0], path.resolve().name, encoding)
    found = ", ".join(f"{len(files)} of {role}" for role, files in tables.roles().items())
    raise InputError(f"{source} is no dataset: files found: {found}. Expected {_FORMS}.")


def _may_be_pairs(file: Path) -> bool:
    return format_of(file) not in (None, "text") or file.suffix.lower() == ".json"


def _read_file(path: Path, name: str, encoding: str) -> Dataset:
    collector = Collector()
    if path.suffix.lower() in _SHEETS:
        raise InputError(
            f"{path} is a spreadsheet. Save it as CSV and give that; --encoding gb18030 if it is not UTF-8."
        )
    if format_of(path) not in (None, "text"):
        found = list(records(path, collector.note, encoding))
        if not found or not looks_like_pairs(found[0][0]):
            raise InputError(
                f"{path}: expected the columns question and passage (问题, 答案), or lines such as "
                f'{{"question": ..., "passage": ...}}, found {named(found[0][0]) if found else "no row"}. Or give a '
                f"folder with {_FORMS}."
            )
        add_pairs(collector, found)
        return collector.dataset(name)
    if path.suffix.lower() == ".json":
        _add_llama_index(collector, path, encoding)
        return collector.dataset(name)
    raise InputError(f"{path} is no dataset. Give a folder with {_FORMS}.")


def _add_llama_index(collector: Collector, path: Path, encoding: str) -> None:
    """Take what LlamaIndex's `EmbeddingQAFinetuneDataset.save_json` writes."""
    try:
        with path.open("rb") as stream, open_text(stream, encoding, str(path)) as text:
            read = text.read()
        check_decoded(read, str(path), encoding)
        content: Any = json.loads(read)
        queries, corpus, answers = (content[part].items() for part in ("queries", "corpus", "relevant_docs"))
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: expected the objects queries, corpus and relevant_docs, as LlamaIndex writes them "
            f"({repr(error)[:200]})."
        ) from None
    collector.add_queries(({"id": name, "text": text}, f"queries {name}") for name, text in queries)
    collector.add_passages(({"id": name, "text": text}, f"corpus {name}") for name, text in corpus)
    for query, names in answers:
        for name in names:
            collector.judge(str(query), str(name), 1, f"relevant_docs {query}")


def _from_tables(tables: Tables, name: str, wanted: str | None, encoding: str, preferred: Sequence[str]) -> Dataset:
    split = _split(sorted({found or "" for found, _ in tables.qrels}), wanted, preferred)
    collector = Collector()
    for file in tables.of(tables.corpus, split):
        collector.add_passages(records(file, collector.note, encoding))
    for file in tables.of(tables.queries, split):
        collector.add_queries(records(file, collector.note, encoding))
    for file in tables.of(tables.qrels, split):
        collector.add_judgements(judgements(file, collector.note, encoding))
    if split is not None:
        others = [file for found, file in tables.qrels if found != split]
        collector.leave_out(row for file in others for row in judgements(file, lambda *_: None, encoding))
    return collector.dataset(name, split)


def _split(found: list[str], wanted: str | None, preferred: Sequence[str]) -> str | None:
    """Return the split to read; None for all there is."""
    if wanted == "all" or (wanted is None and len(found) == 1):
        return None if wanted == "all" else found[0] or None
    if wanted is not None:
        if wanted not in found:
            raise ConfigError(
                f"There is no split {wanted!r}. There are {', '.join(filter(None, found)) or 'one'}, or all."
            )
        return wanted
    chosen = next((name for name in preferred if name in found), None)
    if chosen is None:
        raise ConfigError(f"Which split of {', '.join(filter(None, found))}? Say --split NAME, or --split all.")
    return chosen


def _snapshot(folder: Path) -> Path:
    """Return the newest snapshot of a repository in Hugging Face's cache; another folder is what it is."""
    snapshots = folder / "snapshots"
    found = [entry for entry in snapshots.iterdir() if entry.is_dir()] if snapshots.is_dir() else []
    return max(found, key=lambda entry: entry.stat().st_mtime) if found else folder
