"""`zh-retrieval rerank`: score candidates, from JSONL or from a TREC run."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import Progress, say, summary
from zh_retrieval.cli.flags import add_load_flags, add_reading_flags, load_options, take_folder
from zh_retrieval.cli.job_metrics import add_metrics_flag, job_metrics
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.files.reading.encodings import check_decoded, check_encoding, open_text
from zh_retrieval.files.reading.records import Form, Reader, Record, text_form
from zh_retrieval.files.utf8 import json_text
from zh_retrieval.files.writing.windows import key_of, windows
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    from zh_retrieval.base import Reranker

HELP = "rerank candidates: JSONL of query and documents, or a TREC run; resumes after an interruption"
_WINDOW = 16  # queries computed and kept at a time, up to four times as many
_VERSION = 2  # of what a window holds
_PAIR = re.compile(r"\bpairs\[(\d+)\]")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help='JSONL of {"query": "...", "documents": ["..." or {"id": "...", "text": "..."}]}; - for stdin',
    )  # fmt: skip
    parser.add_argument("--run", help="TREC run to rerank, with --queries and --corpus")
    parser.add_argument("--queries", help='JSONL of {"id" or "_id", "text"}, or .csv, .tsv')
    parser.add_argument("--corpus", help='JSONL of {"id" or "_id", "text", "title"}, or .csv, .tsv')
    parser.add_argument("--output", "-o", required=True, help="file, or - for stdout")
    parser.add_argument(
        "--model", "-m", default=DEFAULT_CROSS_ENCODER, metavar="NAME[=FOLDER]", help="default: %(default)s"
    )
    parser.add_argument("--instruction", help="replaces the model's own instruction, of models that take one")
    parser.add_argument("--top-n", type=int, help="documents to keep for each query; default all")
    add_reading_flags(parser)
    parser.add_argument("--restart", action="store_true", help="drop an interrupted run instead of resuming it")
    add_metrics_flag(parser)
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Rerank everything."""
    import zh_retrieval
    from zh_retrieval.files.writing.staging import check_output, own_files
    from zh_retrieval.ranking import rank_scores

    take_folder(arguments)
    rank_scores([], arguments.top_n)  # refuses a bad --top-n before anything is loaded
    if bool(arguments.run) == bool(arguments.inputs):
        raise ConfigError("Give either INPUT files or --run with --queries and --corpus.")
    encoding = check_encoding(arguments.encoding)
    sources = [*arguments.inputs, *filter(None, (arguments.run, arguments.queries, arguments.corpus))]
    staged = arguments.output != "-"
    if staged:
        check_output(arguments.output, sources)
    form = text_form("text", "title", encoding=encoding) if arguments.run else Form(_check_query, encoding=encoding)
    reader = Reader(form, arguments.on_error == "skip", say, own_files(arguments.output) if staged else ())
    records = iter(_from_run(arguments, reader)) if arguments.run else reader.live(arguments.inputs)
    with zh_retrieval.load_reranker(arguments.model, **load_options(arguments)) as reranker:
        if staged:
            _stage(arguments, reranker, reader, records)
        else:
            _stream(arguments, reranker, reader, records)
    return 0


def _check_query(fields: dict[str, Any]) -> str:
    query: Any = fields.get("query")
    documents = fields.get("documents")
    check_text(query, "field 'query'")
    if not query.strip():
        raise InputError("field 'query' is empty, which gives documents no score. Remove the line.")
    if not isinstance(documents, list):
        raise InputError(f"field 'documents' is {type(documents).__name__}, expected a list.")
    for index, document in enumerate(documents):
        check_text(document.get("text") if isinstance(document, dict) else document, f"documents[{index}]")
        if isinstance(document, dict) and document.get("title") is not None:
            check_text(document["title"], f"documents[{index}] title")
    return str(query)


def _text(document: Any) -> str:
    if not isinstance(document, dict):
        return str(document)
    return f"{document['title']}\n{document['text']}" if document.get("title") else str(document["text"])


def _lines(
    arguments: argparse.Namespace, reranker: Reranker, reader: Reader, window: list[Record]
) -> tuple[int, list[str]]:
    """Return how many queries have scores, and their lines; the others are bad rows."""
    from zh_retrieval.ranking import rank_scores

    lines, scored = [], 0
    for record, scores in _scores(arguments, reranker, reader, window):
        documents = record.fields["documents"]
        ranked = rank_scores(scores, arguments.top_n)
        scored += 1
        if arguments.run:
            name = record.fields["id"]
            lines += [
                f"{name} Q0 {documents[entry.index]['id']} {rank} {entry.score:.9g} {reranker.spec.name}\n"
                for rank, entry in enumerate(ranked, 1)
            ]
        else:
            kept = [_scored(documents[entry.index], entry.index, entry.score) for entry in ranked]
            lines.append(json_text({**record.fields, "documents": kept}) + "\n")
    return scored, lines


def _scores(
    arguments: argparse.Namespace, reranker: Reranker, reader: Reader, window: list[Record]
) -> Iterator[tuple[Record, list[float]]]:
    """Yield each query with the scores of its documents; where one has none, queries are tried one by one."""
    pairs = [[(record.text, _text(document)) for document in record.fields["documents"]] for record in window]
    try:
        scores = reranker.score([pair for own in pairs for pair in own], instruction=arguments.instruction).tolist()
    except InputError as error:
        if len(window) > 1:
            for record in window:
                yield from _scores(arguments, reranker, reader, [record])
        else:
            said = _PAIR.sub(r"documents[\1]", str(error))
            reader.bad(f"{window[0].where}: {said}")
        return
    low = 0
    for record, own in zip(window, pairs, strict=True):
        yield record, scores[low : low + len(own)]
        low += len(own)


def _scored(document: Any, index: int, score: float) -> dict[str, Any]:
    fields = dict(document) if isinstance(document, dict) else {"text": document}
    return {**fields, "index": index, "score": score}


def _from_run(arguments: argparse.Namespace, reader: Reader) -> list[Record]:
    if not (arguments.queries and arguments.corpus):
        raise ConfigError("--run needs --queries and --corpus, both JSONL.")
    if not Path(arguments.run).is_file():
        raise InputError(f"{arguments.run} is not a file. Give a TREC run.")
    queries, corpus = (_by_id(reader, path) for path in (arguments.queries, arguments.corpus))
    candidates: dict[str, list[dict[str, str]]] = {}
    with Path(arguments.run).open("rb") as raw, open_text(raw, reader.form.encoding, arguments.run) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                query, document = _candidate(
                    line, f"line {number} of {arguments.run}", reader.form.encoding, queries, corpus
                )
            except InputError as error:
                reader.bad(str(error), among_good=False)
            else:
                candidates.setdefault(query, []).append({"id": document, "text": corpus[document]})
    return [
        Record({"id": name, "documents": documents}, queries[name], name, name)
        for name, documents in candidates.items()
    ]


def _by_id(reader: Reader, path: str) -> dict[str, str]:
    """Return the texts of a file by their ids.

    Raises:
        InputError: Two have one id (unless bad lines are skipped: then the first one stays).
    """
    found: dict[str, Record] = {}
    for record in reader.read([path]):
        first = found.setdefault(record.id, record)
        if first is not record:
            said = f"{record.where}: id {record.id[:80]!r} is that of {first.where}. Give each text its own."
            reader.bad(said)
    return {name: record.text for name, record in found.items()}


def _candidate(
    line: str, where: str, encoding: str, queries: dict[str, str], corpus: dict[str, str]
) -> tuple[str, str]:
    """Return the ids of query and document in one line of a run."""
    check_decoded(line, where, encoding)
    parts = line.split()
    if len(parts) != 6:
        raise InputError(f"{where}: {len(parts)} columns, expected 6 (qid Q0 id rank score tag).")
    if parts[0] not in queries or parts[2] not in corpus:
        raise InputError(f"{where}: {parts[0][:80]!r} or {parts[2][:80]!r} is not in --queries or --corpus.")
    return parts[0], parts[2]


def _stream(
    arguments: argparse.Namespace, reranker: Reranker, reader: Reader, records: Iterator[Record | None]
) -> None:
    with Progress("query") as shown, job_metrics(arguments, shown):
        for window in windows(records, _WINDOW):
            sys.stdout.writelines(_lines(arguments, reranker, reader, window)[1])
            sys.stdout.flush()
            shown.advance(len(window))
    reader.report(rows_matter=False)
    if shown.lines:
        say(f"{shown.done} queries, {shown.rate()}")


def _stage(arguments: argparse.Namespace, reranker: Reranker, reader: Reader, records: Iterator[Record | None]) -> None:
    from zh_retrieval.files.writing.encoded import Encoded
    from zh_retrieval.files.writing.staging import Staging
    from zh_retrieval.files.writing.vectors import Lines

    job = {
        "command": "rerank", "version": _VERSION, "model": reranker.spec.name,
        "weights and options": reranker.fingerprint, "top_n": arguments.top_n, "instruction": arguments.instruction,
        "run": bool(arguments.run),
    }  # fmt: skip
    keys: list[str] = []
    computed = 0
    restart = arguments.restart or "-" in arguments.inputs
    with (
        Staging(Path(arguments.output), job, Lines(True), restart=restart) as staging,
        Progress("query") as shown,
        job_metrics(arguments, shown),
    ):
        for window in windows((record for record in records if record is not None), _WINDOW):
            keys.append(key_of(window))
            kept = staging.rows(keys[-1])
            if kept is None:
                scored, lines = _lines(arguments, reranker, reader, window)
                content = "".join(lines).encode("utf-8")
                staging.add(keys[-1], scored, partial(Path.write_bytes, data=content))
                computed += len(window)
            elif kept < len(window):
                reader.skipped_before(len(window) - kept)
            shown.advance(len(window))
        reader.check()
        staging.finish(keys, Encoded())
    reader.report(rows_matter=False)
    say(summary(shown, computed, arguments.output))
