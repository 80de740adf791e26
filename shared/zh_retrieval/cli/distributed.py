"""`zh-retrieval embed --ray`: the same command over the processes of this machine, or over a cluster."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import Progress, say
from zh_retrieval.cli.job_metrics import job_metrics
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sparse.options import sparse_options
from zh_retrieval.validation import check_text

if TYPE_CHECKING:
    from zh_retrieval.distributed.encoding import Encoding

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
    group.add_argument("--gpus", type=int, metavar="N", help="GPUs of each; default 1 where the cluster has some")
    group.add_argument("--part-rows", type=int, metavar="N", help=f"rows of a part; default {_ROWS}")


def refuse_ray_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError if a flag of a cluster is given without --ray, which would do nothing."""
    given = [name for name in ("workers", "cpus", "gpus", "part_rows") if getattr(arguments, name) is not None]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for clusters. Add --ray, or leave it out.")


def embed_on_ray(arguments: argparse.Namespace, encoding: Encoding, title_field: str | None) -> int:
    """Embed into the parts of a folder, and return 0 if every row has one, else 1."""
    from zh_retrieval.distributed.job.planning import absolute
    from zh_retrieval.distributed.job.run import Size, embed_files
    from zh_retrieval.distributed.job.worker import Reading, Work

    if "-" in (*arguments.inputs, arguments.output):
        raise ConfigError("--ray reads files and writes a folder, not standard input and output. Leave - or --ray out.")
    size = Size(arguments.part_rows or _ROWS, arguments.workers, arguments.cpus, arguments.gpus)
    if arguments.part_rows is not None and arguments.part_rows < 1:
        raise ConfigError(f"--part-rows {arguments.part_rows} must be a positive whole number.")
    for name in (arguments.instruction, arguments.text_field, title_field, arguments.id_field):
        if name is not None:
            check_text(name, "an argument")
    reading = Reading(
        arguments.text_field, title_field, arguments.id_field, arguments.encoding, not arguments.drop_columns
    )
    travelling, said = _travelling(encoding)
    job = {**said, "role": arguments.role, "instruction": arguments.instruction, "fields": asdict(reading)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that a command starts reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what later versions do
    work = Work(travelling, reading, keep_bad=arguments.on_error == "skip", output=absolute(arguments.output))
    with Progress("text") as shown, job_metrics(arguments, shown) as failed:
        summary = embed_files(
            arguments.inputs, work, job, size,
            address=arguments.ray, restart=arguments.restart, say=say, advance=shown.advance,
        )  # fmt: skip
        if summary.failures:
            failed()
    _report(summary)
    return 1 if summary.failures else 0


def _travelling(encoding: Encoding) -> tuple[Encoding, dict[str, Any]]:
    """Return what workers open, and what tells the job from others: what the environment says is in both."""
    sent = encoding
    said: dict[str, Any] = {"model": None, "recipe": None, "options": {}}
    if encoding.model is not None:
        spec, options, results = _resolved(encoding.model, encoding.options)
        sent = replace(sent, model=spec, options=options)
        said = {"model": spec.name, "recipe": recipe_hash(spec), "options": results}
    if encoding.sparse is not None:
        spec, options, results = _resolved(encoding.sparse, encoding.sparse_options)
        sent = replace(sent, sparse=spec, sparse_options=options)
        said["sparse"] = {"model": spec.name, "recipe": recipe_hash(spec), "options": results}
    return sent, said


def _resolved(model: str | ModelSpec, options: dict[str, Any]) -> tuple[ModelSpec, dict[str, Any], dict[str, Any]]:
    """Return the recipe, the options as workers get them, and those among them that change results."""
    if get_spec(model).task == "sparse":
        return get_spec(model), options, asdict(sparse_options(get_spec(model), options))
    kept = LoadOptions.given(**options)
    results = {name: getattr(kept, name) for name, option in OPTIONS.items() if option.changes_results}
    if kept.path is not None:  # workers stand elsewhere
        results["path"] = str(Path(kept.path).expanduser().absolute())
    return get_spec(model), {**options, **results, "device": kept.device}, results


def _report(summary: Any) -> None:
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary.stages.items())
    size = summary.workers
    each = f"; {size.count} workers with {size.cpus} CPUs" if size else ""
    each += f" and {size.gpus} GPUs" if size and size.gpus else ""
    say(
        f"{summary.rows} rows in {summary.parts} parts, {summary.seconds:.1f} s, {rate:.1f} rows/s; "
        f"{summary.kept} parts were there{each}"
    )
    if summary.others:
        say(f"{summary.others} more parts are of files that were not given now: they stay")
    if summary.cut:
        say(f"{summary.cut} texts were longer than the model reads: they lost {summary.lost} tokens at least")
    if stages:
        say(f"seconds of all workers: {stages}")
    if summary.bad:
        say(f"{summary.bad} rows have no vector: see the column error")
    if summary.deaths:
        say(f"{summary.deaths} workers died and were replaced")
    if summary.failures:
        say(f"{len(summary.failures)} failures; what was finished is kept: mend them and run the same command again")
