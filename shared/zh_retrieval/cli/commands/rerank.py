"""`zh-retrieval rerank`: score candidates, from JSONL or from a TREC run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import progress, say
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.files.records import Reader, Record, text_parser, windows
from zh_retrieval.files.utf8 import check_utf8, json_text
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    from zh_retrieval.base import Reranker

HELP = "rerank candidates: JSONL of query and documents, or a TREC run; resumes after an interruption"
_WINDOW = 32  # queries computed and kept at a time


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
    parser.add_argument("--model", "-m", default=DEFAULT_CROSS_ENCODER, help="default: %(default)s")
    parser.add_argument("--instruction", help="replaces the model's own instruction, of models that take one")
    parser.add_argument("--top-n", type=int, help="documents to keep for each query; default all")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="lines that are no record")
    parser.add_argument("--restart", action="store_true", help="drop an interrupted run instead of resuming it")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Rerank everything."""
    import zh_retrieval
    from zh_retrieval.ranking import rank_scores

    rank_scores([], arguments.top_n)  # refuses a bad --top-n before anything is loaded
    if bool(arguments.run) == bool(arguments.inputs):
        raise ConfigError("Give either INPUT files or --run with --queries and --corpus.")
    parse = text_parser("text", "title") if arguments.run else _check_query
    reader = Reader(parse, skip=arguments.on_error == "skip", say=say)
    records = _from_run(arguments, reader) if arguments.run else reader.live(arguments.inputs)
    with zh_retrieval.load_reranker(arguments.model, **load_options(arguments)) as reranker:
        if arguments.output == "-":
            for window in windows(records, _WINDOW):
                sys.stdout.writelines(_lines(arguments, reranker, window))
                sys.stdout.flush()
        else:
            _stage(arguments, reranker, windows((record for record in records if record is not None), _WINDOW))
    reader.report(rows_matter=False)
    return 0


def _check_query(fields: dict[str, Any]) -> str:
    query: Any = fields.get("query")
    documents = fields.get("documents")
    check_text(query, "field 'query'")
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


def _lines(arguments: argparse.Namespace, reranker: Reranker, window: list[Record]) -> list[str]:
    from zh_retrieval.ranking import rank_scores

    pairs = [(record.text, _text(document)) for record in window for document in record.fields["documents"]]
    scores = reranker.score(pairs, instruction=arguments.instruction).tolist()
    lines, low = [], 0
    for record in window:
        documents = record.fields["documents"]
        ranked = rank_scores(scores[low : low + len(documents)], arguments.top_n)
        low += len(documents)
        if arguments.run:
            name = record.fields["id"]
            lines += [
                f"{name} Q0 {documents[entry.index]['id']} {rank} {entry.score:.9g} {reranker.spec.name}\n"
                for rank, entry in enumerate(ranked, 1)
            ]
        else:
            kept = [_scored(documents[entry.index], entry.index, entry.score) for entry in ranked]
            lines.append(json_text({**record.fields, "documents": kept}) + "\n")
    return lines


def _scored(document: Any, index: int, score: float) -> dict[str, Any]:
    fields = dict(document) if isinstance(document, dict) else {"text": document}
    return {**fields, "index": index, "score": score}


def _from_run(arguments: argparse.Namespace, reader: Reader) -> Iterator[Record | None]:
    if not (arguments.queries and arguments.corpus):
        raise ConfigError("--run needs --queries and --corpus, both JSONL.")
    queries, corpus = (_by_id(reader, path) for path in (arguments.queries, arguments.corpus))
    if not Path(arguments.run).is_file():
        raise InputError(f"{arguments.run} is not a file. Give a TREC run.")
    candidates: dict[str, list[dict[str, str]]] = {}
    with Path(arguments.run).open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            where = f"line {number} of {arguments.run}"
            for found in reader.attempt(partial(_candidate, line, where, queries, corpus)) if line.strip() else ():
                candidates.setdefault(found.text, []).append(found.fields)
    for name, documents in candidates.items():
        yield Record({"id": name, "documents": documents}, queries[name], name)


def _by_id(reader: Reader, path: str) -> dict[str, str]:
    """Return the texts of a file by their ids.

    Raises:
        InputError: Two have one id (unless bad lines are skipped: then the first one stays).
    """
    found: dict[str, Record] = {}

    def add(record: Record) -> Record:
        first = found.setdefault(record.id, record)
        if first is not record:
            raise InputError(f"{record.where}: id {record.id!r} is that of {first.where}. Give each text its own.")
        return record

    for record in reader.read([path]):
        for _ in reader.attempt(partial(add, record)):
            pass
    return {name: record.text for name, record in found.items()}


def _candidate(line: str, where: str, queries: dict[str, str], corpus: dict[str, str]) -> Record:
    """Return one line of a run: the document as fields, the id of its query as text."""
    check_utf8(line, where)
    parts = line.split()
    if len(parts) != 6:
        raise InputError(f"{where}: {len(parts)} columns, expected 6 (qid Q0 id rank score tag).")
    if parts[0] not in queries or parts[2] not in corpus:
        raise InputError(f"{where}: {parts[0]!r} or {parts[2]!r} is not in --queries or --corpus.")
    return Record({"id": parts[2], "text": corpus[parts[2]]}, parts[0], where)


def _stage(arguments: argparse.Namespace, reranker: Reranker, parts: Iterator[list[Record]]) -> None:
    from zh_retrieval.files.staging import Staging, concatenate, fingerprint

    sources = [*arguments.inputs, *filter(None, (arguments.run, arguments.queries, arguments.corpus))]
    job = {
        "command": "rerank", "window": _WINDOW, "model": repr(reranker.spec), "top_n": arguments.top_n,
        "options": load_options(arguments), "dtype": str(reranker.dtype), "inputs": fingerprint(sources),
        "on_error": arguments.on_error, "instruction": arguments.instruction,
    }  # fmt: skip
    staging = Staging(Path(arguments.output), job, restart=arguments.restart or "-" in arguments.inputs)
    count = 0
    with staging, progress("query") as move:
        for count, window in enumerate(parts, 1):
            if not staging.has(count - 1):
                content = "".join(_lines(arguments, reranker, window)).encode("utf-8")
                staging.add(count - 1, lambda path, c=content: path.write_bytes(c))  # type: ignore[misc]
            move(len(window))
        staging.finish(count, concatenate)
