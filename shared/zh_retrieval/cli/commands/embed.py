"""`zh-retrieval embed`: texts to vectors, window by window, resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval.cli.console import progress, say
from zh_retrieval.cli.distributed import add_ray_flags, embed_on_ray
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.records import Reader, Record, text_parser, windows
from zh_retrieval.recipes.catalogue import DEFAULT_ENCODER

if TYPE_CHECKING:
    import numpy as np

    from zh_retrieval.base import Encoder

HELP = "embed JSONL, tables, text or Markdown files into JSONL, npy or Parquet; resumes after an interruption"
_WINDOW = 2048  # records computed and kept at a time: memory stays flat however long the input is


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help=".jsonl: one object a line; .csv, .tsv: one row each, with a header; .txt: one text a line; .md: passages "
        "of about 400 characters; - for stdin",
    )  # fmt: skip
    parser.add_argument(
        "--output", "-o", required=True, help=".jsonl, .npy or .parquet; - for JSONL on stdout; with --ray a folder"
    )
    parser.add_argument("--model", "-m", default=DEFAULT_ENCODER, help="default: the built-in model")
    parser.add_argument("--as", dest="role", choices=("document", "query"), default="document")
    parser.add_argument("--instruction", help="replaces the model's query instruction")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--title-field", default="title", help="put before the text of documents; '' for none")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="lines that are no record")
    parser.add_argument("--restart", action="store_true", help="drop an interrupted run instead of resuming it")
    add_load_flags(parser)
    add_ray_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Embed everything."""
    import zh_retrieval

    if arguments.role == "document" and arguments.instruction is not None:
        raise ConfigError("--instruction is for queries. Add --as query, or leave it out.")
    title = arguments.title_field or None if arguments.role == "document" else None
    if arguments.ray is not None:
        return embed_on_ray(arguments, title)
    reader = Reader(text_parser(arguments.text_field, title), skip=arguments.on_error == "skip", say=say)
    with zh_retrieval.load_encoder(arguments.model, **load_options(arguments)) as encoder:
        if arguments.output == "-":
            _stream(arguments, encoder, windows(reader.live(arguments.inputs), _WINDOW))
        else:
            _stage(arguments, encoder, windows(reader.read(arguments.inputs), _WINDOW))
    reader.report(rows_matter="-" in arguments.inputs or arguments.output.lower().endswith(".npy"))
    return 0


def _encode(arguments: argparse.Namespace, encoder: Encoder, records: list[Record]) -> np.ndarray:
    texts = [record.text for record in records]
    if arguments.role == "query":
        return encoder.encode_queries(texts, instruction=arguments.instruction)
    return encoder.encode_documents(texts)


def _stream(arguments: argparse.Namespace, encoder: Encoder, parts: Iterator[list[Record]]) -> None:
    from zh_retrieval.files.vectors import json_line

    for records in parts:
        for record, vector in zip(records, _encode(arguments, encoder, records), strict=True):
            print(json_line(record, vector))
        sys.stdout.flush()


def _stage(arguments: argparse.Namespace, encoder: Encoder, parts: Iterator[list[Record]]) -> None:
    from zh_retrieval.files.staging import Staging, fingerprint
    from zh_retrieval.files.vectors import format_of

    output = format_of(arguments.output)
    job = {
        "command": "embed", "window": _WINDOW, "model": repr(encoder.spec), "role": arguments.role,
        "instruction": arguments.instruction, "fields": [arguments.text_field, arguments.title_field],
        "options": load_options(arguments), "dtype": str(encoder.dtype), "inputs": fingerprint(arguments.inputs),
        "on_error": arguments.on_error,
    }  # fmt: skip
    staging = Staging(Path(arguments.output), job, restart=arguments.restart or "-" in arguments.inputs)
    count = 0
    with staging, progress("text") as move:
        for count, records in enumerate(parts, 1):
            if not staging.has(count - 1):
                vectors = _encode(arguments, encoder, records)
                staging.add(count - 1, lambda path, r=records, v=vectors: output.write(path, r, v))  # type: ignore[misc]
            move(len(records))
        staging.finish(count, lambda parts, target: output.join(parts, target, encoder.dimension))
