"""`zh-retrieval embed --ray`: the same command over the processes of this machine, or over a cluster."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from zh_retrieval.cli.console import progress, say
from zh_retrieval.cli.flags import load_options
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.validation import check_text

_ROWS = 4096  # of a part: what a worker that dies loses


def add_ray_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a cluster."""
    group = parser.add_argument_group("Ray", "INPUT may be folders, patterns, Parquet and URIs; --output is a folder")
    group.add_argument(
        "--ray", nargs="?", const="auto", metavar="ADDRESS",
        help="embed on a cluster: its address, 'local' for processes of this machine, nothing for one that runs here",
    )  # fmt: skip
    group.add_argument("--workers", type=int, help="processes; default one for each GPU, or as the CPUs allow")
    group.add_argument("--cpus", type=int, metavar="N", help="CPUs, and so threads, of each; default all, shared")
    group.add_argument("--part-rows", type=int, default=_ROWS, metavar="N", help="rows of a part; default %(default)s")


def embed_on_ray(arguments: argparse.Namespace, title_field: str | None) -> int:
    """Embed into the parts of a folder, and return 0 if every row has one, else 1."""
    from zh_retrieval.distributed.job.run import Size, embed_files
    from zh_retrieval.distributed.job.worker import Work

    if "-" in (*arguments.inputs, arguments.output):
        raise ConfigError("--ray reads files and writes a folder, not standard input and output. Leave - or --ray out.")
    if arguments.part_rows < 1:
        raise ConfigError(f"--part-rows {arguments.part_rows} must be a positive whole number.")
    spec, options = get_spec(arguments.model), load_options(arguments)
    check_task(spec, "embedding")
    if options.get("path"):
        options["path"] = str(Path(options["path"]).expanduser().absolute())  # workers stand elsewhere
    kept = LoadOptions.given(**options)
    kept.check("embedding")
    for name in (arguments.instruction, arguments.text_field, title_field):
        if name is not None:
            check_text(name, "an argument")
    job = {
        "model": spec.name, "recipe": recipe_hash(spec), "role": arguments.role, "instruction": arguments.instruction,
        "fields": [arguments.text_field, title_field],
        "options": {name: getattr(kept, name) for name, option in OPTIONS.items() if option.changes_results},
    }  # fmt: skip
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that a command starts reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what later versions do
    work = Work(
        spec, options, arguments.role, arguments.instruction, arguments.text_field, title_field,
        keep_bad=arguments.on_error == "skip", output=_absolute(arguments.output),
    )  # fmt: skip
    with progress("text") as move:
        summary = embed_files(
            arguments.inputs, work, job, Size(arguments.part_rows, arguments.workers, arguments.cpus),
            address=arguments.ray, restart=arguments.restart, say=say, advance=move,
        )  # fmt: skip
    _report(summary)
    return 1 if summary.failures else 0


def _absolute(output: str) -> str:
    return output if "://" in output else os.path.abspath(os.path.expanduser(output))


def _report(summary: Any) -> None:
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary.stages.items())
    size = summary.workers
    each = f"{size.cpus} CPUs" + (f" and {size.gpus} GPU" if size.gpus else "")
    say(
        f"{summary.rows} rows in {summary.parts} parts, {summary.seconds:.1f} s, {rate:.1f} rows/s; "
        f"{summary.kept} parts were there; {size.count} workers with {each}"
    )
    if stages:
        say(f"seconds of all workers: {stages}")
    if summary.bad:
        say(f"{summary.bad} rows have no vector: see the column error")
    if summary.deaths:
        say(f"{summary.deaths} workers died and were replaced")
    if summary.failures:
        say(f"{len(summary.failures)} failures; what was finished is kept: mend them and run the same command again")
