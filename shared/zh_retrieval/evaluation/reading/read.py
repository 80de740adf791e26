"""Which form a folder or file has, and the dataset in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.pairs import add_pairs, looks_like_pairs
from zh_retrieval.evaluation.reading.rows import JSONL, rows, suffix
from zh_retrieval.evaluation.reading.tables import Tables, find_tables

_FORMS = (
    "corpus.jsonl, queries.jsonl and qrels/*.tsv as BEIR has them; the same three as Parquet or Arrow in folders of "
    "those names, as mteb has them; a .json of LlamaIndex with queries, corpus and relevant_docs; or a .jsonl of "
    "questions with their passages"
)
_PREFERRED = ("test", "dev", "validation", "val", "train")


def read_dataset(source: str | Path, *, split: str | None = None) -> Dataset:
    """Return the dataset in a folder or file.

    Args:
        source: A folder with `corpus`, `queries` and `qrels` (BEIR's and mteb's layouts), LlamaIndex's JSON file, or
            JSONL of questions with their passages.
        split: Which judgements, where there are several; "all" for all of them. By default test, else dev, else
            validation, else train.

    Raises:
        InputError: It is none of these, or a file cannot be read.
        ConfigError: There is no such split.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _read_file(path, path.stem)
    if not path.is_dir():
        raise InputError(f"{source} is neither a folder nor a file. Give a folder with {_FORMS}.")
    folder = _snapshot(path)
    tables = find_tables(folder)
    if tables.corpus and tables.queries and tables.qrels:
        return _from_tables(tables, path.resolve().name, split)
    if not tables.corpus and not tables.queries:
        files = [file for file in sorted(folder.iterdir()) if suffix(file) in (*JSONL, ".json")]
        if len(files) == 1:
            return _read_file(files[0], path.resolve().name)
    found = ", ".join(f"{len(files)} of {role}" for role, files in tables.roles().items())
    raise InputError(f"{source} is no dataset: files found: {found}. Expected {_FORMS}.")


def _read_file(path: Path, name: str) -> Dataset:
    collector = Collector()
    if suffix(path) in JSONL:
        found = list(rows(path, collector.note))
        if not found or not looks_like_pairs(found[0][0]):
            raise InputError(
                f'{path}: expected lines such as {{"question": ..., "passage": ...}}, found '
                f"{', '.join(found[0][0]) if found else 'none'}. Or give a folder with {_FORMS}."
            )
        add_pairs(collector, found)
        return collector.dataset(name)
    if suffix(path) == ".json":
        _add_llama_index(collector, path)
        return collector.dataset(name)
    raise InputError(f"{path} is no dataset. Give a folder with {_FORMS}.")


def _add_llama_index(collector: Collector, path: Path) -> None:
    """Take what LlamaIndex's `EmbeddingQAFinetuneDataset.save_json` writes."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        queries, corpus, answers = (content[part].items() for part in ("queries", "corpus", "relevant_docs"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the objects queries, corpus and relevant_docs, as LlamaIndex writes them ({error!r})."
        ) from None
    collector.add_queries(({"id": name, "text": text}, f"queries {name}") for name, text in queries)
    collector.add_passages(({"id": name, "text": text}, f"corpus {name}") for name, text in corpus)
    for query, names in answers:
        for name in names:
            collector.judge(str(query), str(name), 1, f"relevant_docs {query}")


def _from_tables(tables: Tables, name: str, wanted: str | None) -> Dataset:
    split = _split(sorted({found or "" for found, _ in tables.qrels}), wanted)
    collector = Collector()
    for file in tables.of(tables.corpus, split):
        collector.add_passages(rows(file, collector.note))
    for file in tables.of(tables.queries, split):
        collector.add_queries(rows(file, collector.note))
    for file in tables.of(tables.qrels, split):
        collector.add_judgements(rows(file, collector.note))
    return collector.dataset(name, split)


def _split(found: list[str], wanted: str | None) -> str | None:
    """Return the split to read; None for all there is."""
    if wanted == "all" or (wanted is None and len(found) == 1):
        return None if wanted == "all" else found[0] or None
    if wanted is not None:
        if wanted not in found:
            raise ConfigError(
                f"There is no split {wanted!r}. Found: {', '.join(filter(None, found)) or 'one'}, or all."
            )
        return wanted
    preferred = next((name for name in _PREFERRED if name in found), None)
    if preferred is None:
        raise ConfigError(f"Which split of {', '.join(filter(None, found))}? Say --split NAME, or --split all.")
    return preferred


def _snapshot(folder: Path) -> Path:
    """Return the newest snapshot of a repository in Hugging Face's cache; another folder is what it is."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    return max((entry for entry in snapshots.iterdir() if entry.is_dir()), key=lambda entry: entry.stat().st_mtime)
