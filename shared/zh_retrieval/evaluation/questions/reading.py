"""Corpora and questions that have no judgements yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zh_retrieval.errors import InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.rows import COLUMNS, JSONL, rows, suffix
from zh_retrieval.evaluation.reading.tables import find_tables
from zh_retrieval.files.markdown import passages

_MARKDOWN = (".md", ".markdown")


def read_corpus(source: Path) -> Dataset:
    """Return the passages of a file or folder, without questions.

    A folder with a corpus as BEIR or mteb have it; a JSONL, Parquet or Arrow file of rows with id, text and perhaps
    title; or Markdown, one file or a folder of it, whose headings are titles.

    Raises:
        InputError: There are no passages.
    """
    collector = Collector()
    markdown = (
        [file for file in sorted(source.rglob("*")) if file.suffix.lower() in _MARKDOWN] if source.is_dir() else []
    )
    tables = find_tables(source).corpus if source.is_dir() else ()
    if source.is_file() and suffix(source) in (*JSONL, *COLUMNS):
        collector.add_passages(rows(source, collector.note))
    elif tables:
        for _, file in tables:
            collector.add_passages(rows(file, collector.note))
    else:
        files = [source] if source.is_file() and source.suffix.lower() in _MARKDOWN else markdown
        for file in files:
            name = file.relative_to(source).as_posix() if source.is_dir() else file.name
            for number, (title, text) in enumerate(passages(file.read_text(encoding="utf-8-sig")), 1):
                collector.add_passages([({"id": f"{name}#{number}", "title": title, "text": text}, name)])
    if not collector.corpus:
        raise InputError(
            f"{source} holds no passages. Give a corpus.jsonl (id, text, perhaps title), or Markdown files."
        )
    return collector.dataset(source.resolve().name)


def read_unjudged(folder: Path) -> Dataset:
    """Return the passages and questions of a BEIR folder, every question counted as to be asked.

    Judgements that are there are not read: the pairs of `qrels` are what labelling makes.

    Raises:
        InputError: There are no passages or no questions.
    """
    data = read_corpus(folder)
    collector = Collector()
    for _, file in find_tables(folder).queries:
        collector.add_queries(rows(file, collector.note))
    if not collector.queries:
        raise InputError(f'{folder} holds no questions. Write them into queries.jsonl: {{"_id": ..., "text": ...}}.')
    return replace(data, queries=collector.queries, qrels={query: {"": 1} for query in collector.queries})
