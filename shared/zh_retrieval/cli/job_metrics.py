"""How a long job is, as a file for node_exporter's textfile collector."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval.cli.console import Progress, say
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.whole import write_whole

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Failed = Callable[[], None]
_EVERY = 15.0  # seconds: what Prometheus scrapes at by default
_TEXT = """\
# HELP zh_retrieval_job_{units}_total Finished so far, what was finished in earlier runs included.
# TYPE zh_retrieval_job_{units}_total counter
zh_retrieval_job_{units}_total{labels} {done}
# HELP zh_retrieval_job_running 1 while the command runs, 0 when it has ended.
# TYPE zh_retrieval_job_running gauge
zh_retrieval_job_running{labels} {running}
# HELP zh_retrieval_job_success 1 if the last run came to its end, 0 while it runs and after an error.
# TYPE zh_retrieval_job_success gauge
zh_retrieval_job_success{labels} {success}
# HELP zh_retrieval_job_start_time_seconds When the run began, in seconds since 1970.
# TYPE zh_retrieval_job_start_time_seconds gauge
zh_retrieval_job_start_time_seconds{labels} {start:.3f}
# HELP zh_retrieval_job_update_time_seconds When this was written: a killed job's grows old while it says running.
# TYPE zh_retrieval_job_update_time_seconds gauge
zh_retrieval_job_update_time_seconds{labels} {now:.3f}
"""


def add_metrics_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the file."""
    parser.add_argument(
        "--metrics-file", metavar="FILE.prom",
        help="write how far it is every 15 s, for node_exporter's --collector.textfile.directory",
    )  # fmt: skip


def job_metrics(arguments: argparse.Namespace, shown: Progress) -> AbstractContextManager[Failed]:
    """Return a block that keeps the file of `--metrics-file` up to date, if one was asked for.

    It yields what says that the job failed, of a job that ends without an error all the same. The file is replaced as a
    whole. One that cannot be written later (a full disk) is said once and ends nothing.

    Raises:
        ConfigError: The name does not end in .prom, which node_exporter demands.
        OSError: It cannot be written when the job begins.
    """
    if arguments.metrics_file is None:
        return nullcontext(lambda: None)
    if not arguments.metrics_file.endswith(".prom"):
        raise ConfigError(f"--metrics-file {arguments.metrics_file[:200]!r} must end in .prom, or no one reads it.")
    labels = {"command": arguments.command, "output": str(arguments.output)}
    return _kept(Path(arguments.metrics_file).expanduser(), labels, shown)


@contextmanager
def _kept(file: Path, labels: dict[str, str], shown: Progress) -> Iterator[Failed]:
    start, ended, said = time.time(), threading.Event(), False
    named = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())

    def write(*, running: bool, success: bool) -> None:
        text = _TEXT.format(
            units=shown.units, labels=f"{{{named}}}", done=shown.done, running=int(running), success=int(success),
            start=start, now=time.time(),
        )  # fmt: skip
        write_whole(file, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))

    def attempt(*, running: bool, success: bool = False) -> None:
        nonlocal said
        try:
            write(running=running, success=success)
        except OSError as error:
            if not said:
                said = True
                say(f"--metrics-file: {error}. The job goes on without it.")

    def keep() -> None:
        while not ended.wait(_EVERY):
            attempt(running=True)

    write(running=True, success=False)
    thread = threading.Thread(target=keep, name="zh-retrieval-metrics", daemon=True)
    thread.start()
    failed: list[bool] = []
    success = False
    try:
        yield lambda: failed.append(True)
        success = not failed
    finally:
        ended.set()
        thread.join()
        attempt(running=False, success=success)


def _escaped(value: str) -> str:
    """Return a label's value as Prometheus's text format writes it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
