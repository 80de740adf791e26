"""`zh-retrieval embed`: texts to vectors, window by window, resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval.cli.console import Progress, say, summary
from zh_retrieval.cli.distributed import add_ray_flags, embed_on_ray, refuse_ray_flags
from zh_retrieval.cli.encoding import add_sparse_flags, encoding_of
from zh_retrieval.cli.estimating import add_estimate_flags, check_estimate_flags, dry_run
from zh_retrieval.cli.flags import add_load_flags, add_reading_flags, take_folder
from zh_retrieval.cli.job_metrics import add_metrics_flag, job_metrics
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.encodings import check_encoding
from zh_retrieval.files.reading.formats.columns import named
from zh_retrieval.files.reading.records import Reader, Record, text_form
from zh_retrieval.files.writing.windows import key_of, windows
from zh_retrieval.recipes.catalogue import DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.distributed.encoding import Encoders
    from zh_retrieval.files.writing.encoded import Encoded
    from zh_retrieval.files.writing.vectors import Format

HELP = "embed JSONL, tables, Parquet, text or Markdown files into JSONL, npy or Parquet; resumes after an interruption"
_WINDOW = 1024  # records computed and kept at a time, up to four times as many: memory stays flat
_VERSION = 2  # of what a window holds


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="files, folders, patterns and URIs of .jsonl (one object a line), .csv and .tsv (a header, one row each), "
        ".parquet, .txt (one text a line) and .md (passages of about 400 characters), also .gz and .zst; - for stdin",
    )  # fmt: skip
    parser.add_argument(
        "--output", "-o", required=True, help=".jsonl, .npy or .parquet; - for JSONL on stdout; with --ray a folder"
    )
    parser.add_argument(
        "--model", "-m", default=DEFAULT_ENCODER, metavar="NAME[=FOLDER]", help="default: the built-in model"
    )
    add_sparse_flags(parser)
    parser.add_argument("--as", dest="role", choices=("document", "query"), default="document")
    parser.add_argument("--instruction", help="replaces the model's query instruction")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field or column of the text")
    parser.add_argument(
        "--title-field", default="title", metavar="NAME", help="put before the text of documents; '' for none"
    )
    add_reading_flags(parser)
    parser.add_argument("--id-field", metavar="NAME", help="field or column of the id; default id or _id")
    parser.add_argument(
        "--drop-columns", action="store_true", help="keep id and text only: other columns stay out of the output"
    )
    parser.add_argument("--restart", action="store_true", help="drop an interrupted run instead of resuming it")
    add_estimate_flags(parser)
    add_metrics_flag(parser)
    add_load_flags(parser)
    add_ray_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Embed everything."""
    from zh_retrieval.files.writing.staging import check_output, own_files
    from zh_retrieval.files.writing.vectors import format_of

    take_folder(arguments)
    encoding = encoding_of(arguments)
    if arguments.role == "document" and arguments.instruction is not None:
        raise ConfigError("--instruction is for queries. Add --as query, or leave it out.")
    check_estimate_flags(arguments)
    arguments.encoding = check_encoding(arguments.encoding)
    title = arguments.title_field or None if arguments.role == "document" else None
    if arguments.ray is not None:
        return embed_on_ray(arguments, encoding, title)
    refuse_ray_flags(arguments)
    form = text_form(arguments.text_field, title, id_field=arguments.id_field, encoding=arguments.encoding)
    output = None if arguments.output == "-" else format_of(arguments.output, form, others=not arguments.drop_columns)
    beside = output.beside if output else ()
    if beside and encoding.sparse is not None:
        raise ConfigError(
            "An .npy file holds dense vectors alone. Give --output a name that ends in .parquet or .jsonl."
        )
    if output:
        check_output(arguments.output, arguments.inputs, beside)
    reader = Reader(form, arguments.on_error == "skip", say, own_files(arguments.output, beside) if output else ())
    records = reader.live(arguments.inputs)
    with encoding.open() as encoders:
        if arguments.dry_run and encoders.dense is not None:  # --no-dense was refused
            return dry_run(arguments, reader, records, encoders.dense)
        if output is None:
            _stream(arguments, encoders, reader, records)
        else:
            _stage(arguments, encoders, reader, output, records)
    return 0


def _encode(encoders: Encoders, reader: Reader, window: list[Record]) -> tuple[list[Record], Encoded]:
    """Return the records that have vectors, and these; the others are bad rows."""
    good, vectors, errors = encoders.encode_valid([record.text for record in window])
    for index, error in sorted(errors.items()):
        reader.bad(f"{window[index].where}: {error}")
    reader.give_way(window, vectors.names)
    return [window[index] for index in good], vectors


def _stream(
    arguments: argparse.Namespace, encoders: Encoders, reader: Reader, records: Iterator[Record | None]
) -> None:
    from zh_retrieval.files.writing.vectors import json_lines

    with Progress("text") as shown, job_metrics(arguments, shown):
        for window in windows(records, _WINDOW):
            for line in json_lines(*_encode(encoders, reader, window), others=not arguments.drop_columns):
                print(line)
            sys.stdout.flush()
            shown.advance(len(window))
    reader.report(rows_matter="-" in arguments.inputs)
    if shown.lines:
        say(f"{shown.done} texts, {shown.rate()}")


def _stage(
    arguments: argparse.Namespace, encoders: Encoders, reader: Reader, output: Format, records: Iterator[Record | None]
) -> None:
    from zh_retrieval.files.writing.staging import Staging

    job = {
        "command": "embed", "version": _VERSION, **encoders.identity(),
        "role": arguments.role, "instruction": arguments.instruction, "drop_columns": arguments.drop_columns,
        "fields": [arguments.text_field, arguments.title_field, arguments.id_field],
        "format": Path(arguments.output).suffix.lower(),
    }  # fmt: skip
    columns = not arguments.output.lower().endswith((".jsonl", ".ndjson", ".json"))
    known: Iterator[Record] = (record for record in records if record is not None)
    known = _identified(known) if columns and arguments.id_field is None else known
    keys: list[str] = []
    computed = 0
    restart = arguments.restart or "-" in arguments.inputs
    with (
        Staging(Path(arguments.output), job, output, restart=restart) as staging,
        Progress("text") as shown,
        job_metrics(arguments, shown),
    ):
        for window in windows(known, _WINDOW):
            keys.append(key_of(window))
            kept = staging.rows(keys[-1])
            if kept is None:
                good, vectors = _encode(encoders, reader, window)
                staging.add(keys[-1], len(good), partial(output.write, records=good, vectors=vectors))
                computed += len(window)
            elif kept < len(window):
                reader.skipped_before(len(window) - kept)
            shown.advance(len(window))
        reader.check()
        staging.finish(keys, encoders.encode([]))
    reader.report(rows_matter="-" in arguments.inputs or arguments.output.lower().endswith(".npy"))
    say(summary(shown, computed, arguments.output))


def _identified(records: Iterator[Record]) -> Iterator[Record]:
    """Yield the records, and say so at the first that no field gives an id."""
    said = False
    for record in records:
        if not record.identified and not said:
            said = True
            say(
                f"no id: {record.where} has no field 'id' or '_id', only {named(record.fields)}. The output's ids say "
                "where rows stood. Say which field is the id with --id-field NAME."
            )
        yield record
