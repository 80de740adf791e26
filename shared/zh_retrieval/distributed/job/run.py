"""A job: plan, start workers, hand out ranges until each has its part, and look whether they are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zh_retrieval.distributed.job.dispatch import Dispatch, last_line
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import Piece, find_inputs, of_files
from zh_retrieval.distributed.job.summary import Say, Summary
from zh_retrieval.distributed.job.worker import Work, plan_file
from zh_retrieval.distributed.resources import connected, nodes, plan_workers
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.sources import Source

_PATIENCE = 30.0  # seconds without a machine that plans before something is said
_SEEN_WITHIN = 60.0  # seconds after which a part of another machine is seen here: NFS keeps listings for a while


@dataclass(frozen=True, slots=True)
class Size:
    """How a job is cut, and what it asks of the cluster: None lets the cluster decide."""

    rows: int
    workers: int | None = None
    cpus: int | None = None
    gpus: int | None = None


def embed_files(
    inputs: Sequence[str], work: Work, job: dict[str, Any], size: Size, *,
    address: str | None, restart: bool, say: Say, advance: Callable[[int], None],
) -> Summary:  # fmt: skip
    """Embed files into the parts of a folder, each row once, however often this was killed before.

    Files that were added to those of an earlier run, or have grown, are embedded; of what has changed the old parts
    are dropped.

    Args:
        inputs: Files, folders, patterns, URIs.
        work: What a worker is told.
        job: What tells this job from another: a folder with parts of another is refused.
        size: How the work is cut.
        address: As for `connected`.
        restart: Drop the parts that are there.
        say: Takes lines about what goes wrong.
        advance: Is told how many rows were written.

    Raises:
        ZhRetrievalError: The job cannot be begun; what can be done of it is done otherwise, see `Summary.failures`.
    """
    folder = PartFolder(work.output)
    files = find_inputs(inputs, work.output, say)
    mark = folder.claim({**job, "part_rows": size.rows}, restart=restart)
    finished = False
    try:
        with connected(address) as ray:
            summary = _run(ray, replace(work, mark=mark), folder, files, size, say, advance)
        finished = not summary.failures
    finally:
        folder.release(finished=finished)
    return summary


def _run(
    ray: Any, work: Work, folder: PartFolder, files: list[Source], size: Size,
    say: Say, advance: Callable[[int], None],
) -> Summary:  # fmt: skip
    summary = Summary()
    planned = _planned(ray, work, files, size.rows, summary, say)
    waiting, kept = compare(folder, planned, summary, say)
    begun = time.monotonic()
    written: list[str] = []
    if waiting:
        folder.mark_finished(False)
        devices = str(work.encoding.options.get("device", "auto"))
        summary.workers = plan_workers(nodes(ray), size.workers, size.cpus, devices, gpus=size.gpus, say=say)
        dispatch = Dispatch(ray, work, folder, summary.workers, summary, say, advance)
        written = dispatch.run(waiting)
    summary.seconds = time.monotonic() - begun
    absent = _absent(folder, {*written, *kept})
    if absent:
        summary.fail(
            f"{len(absent)} parts that were written are not in {folder.name}, such as {min(absent)}: somebody took "
            "them, or not all machines share that folder",
            say,
        )
    return summary


def _absent(folder: PartFolder, names: set[str]) -> set[str]:
    """Return those of the parts that are not in the folder, as the machine of the command sees it."""
    end = time.monotonic() + _SEEN_WITHIN
    while (absent := names - folder.parts()) and time.monotonic() < end:
        time.sleep(1.0)
    return absent


def _planned(
    ray: Any, work: Work, files: list[Source], rows: int, summary: Summary, say: Say
) -> dict[Source, list[Piece]]:
    planning = ray.remote(plan_file)
    results = [planning.remote(file, rows, work.reading) for file in files]
    _wait(ray, results, say)
    found: dict[Source, list[Piece]] = {}
    for file, result in zip(files, results, strict=True):
        try:
            planned = ray.get(result)
        except ray.exceptions.RayError as error:
            planned = last_line(error)
        if isinstance(planned, str):
            summary.fail(f"{file.name}: {planned}", say)
        else:
            found[file] = planned
    return found


def _wait(ray: Any, results: list[Any], say: Say) -> None:
    """Wait for all results.

    Raises:
        ConfigError: The last machine of the cluster died.
    """
    begun, said, left = time.monotonic(), False, results
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=min(_PATIENCE, 5.0))
        if left and not nodes(ray):
            raise ConfigError("No machine of the cluster lives any more. Run the same command again.")
        if len(left) == len(results) and not said and time.monotonic() - begun > _PATIENCE:
            said = True
            say("the cluster has no CPU that is free: waiting for one")


def compare(
    folder: PartFolder, planned: dict[Source, list[Piece]], summary: Summary, say: Say
) -> tuple[list[Piece], set[str]]:
    """Return the pieces that have no part yet, and the parts that are there; parts of what has changed are dropped.

    Parts of files that are not among the planned ones stay: whoever adds to a folder need not give all of it again.
    """
    there, identity = folder.parts(), folder.identity
    names = {piece.name(identity): piece for pieces in planned.values() for piece in pieces}
    kept = names.keys() & there
    stale = of_files(there - kept, planned)
    if stale:
        say(f"{len(stale)} parts are of rows that have changed since: they are made anew")
        folder.drop(stale)
    summary.kept, summary.others = len(kept), len(there) - len(kept) - len(stale)
    return [piece for name, piece in names.items() if name not in kept], kept
