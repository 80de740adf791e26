"""Corpora and questions that have no judgements yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zh_retrieval.errors import InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.rows import LocatedRow, format_of, records
from zh_retrieval.evaluation.reading.tables import find_tables
from zh_retrieval.files.reading.encodings import UTF8, check_encoding

_MARKDOWN = (".md", ".markdown")


def read_corpus(source: Path, encoding: str = UTF8) -> Dataset:
    """Return the passages of a file or folder, without questions.

    A folder with a corpus as BEIR or mteb have it; a JSONL, CSV, TSV, Parquet or Arrow file of rows with id, text and
    perhaps title; or Markdown, one file or a folder of it, whose headings are titles.

    Raises:
        InputError: There are no passages.
        ConfigError: There is no such encoding.
    """
    encoding = check_encoding(encoding)
    collector = Collector()
    source = source.expanduser()
    tables = find_tables(source).corpus if source.is_dir() else ()
    if source.is_file() and format_of(source) not in (None, "text"):
        collector.add_passages(records(source, collector.note, encoding))
    elif tables:
        for _, file in tables:
            collector.add_passages(records(file, collector.note, encoding))
    else:
        for file in [source] if source.is_file() else sorted(source.rglob("*")):
            if file.suffix.lower() in _MARKDOWN and file.is_file():
                name = file.relative_to(source).as_posix() if source.is_dir() else file.name
                collector.add_passages(_passages(file, name, collector, encoding))
    if not collector.corpus:
        raise InputError(
            f"{source} holds no passages. Give a corpus.jsonl (id, text, perhaps title), or Markdown files."
        )
    return collector.dataset(source.resolve().name)


def _passages(file: Path, name: str, collector: Collector, encoding: str) -> Iterator[LocatedRow]:
    for number, (fields, where) in enumerate(records(file, collector.note, encoding), 1):
        yield {**fields, "id": f"{name}#{number}"}, where


def read_unjudged(folder: Path, encoding: str = UTF8) -> Dataset:
    """Return the passages and questions of a BEIR folder, every question counted as to be asked.

    Judgements that are there are not read: the pairs of `qrels` are what labelling makes.

    Raises:
        InputError: There are no passages or no questions.
    """
    encoding = check_encoding(encoding)
    data = read_corpus(folder, encoding)
    collector = Collector()
    for _, file in find_tables(folder).queries:
        collector.add_queries(records(file, collector.note, encoding))
    if not collector.queries:
        raise InputError(f'{folder} holds no questions. Write them into queries.jsonl: {{"_id": ..., "text": ...}}.')
    return replace(data, queries=collector.queries, qrels={query: {"": 1} for query in collector.queries})
