"""Soak: everything at once for a long time, every result compared with serial reference results. Linux only.

    python -m tests.soak --minutes 20

Threads and asyncio tasks encode and score with shared and private handles and with the adapters of both frameworks,
cancel calls, give bad input, change their lists, fill queues, lose their standard error, fork, load and unload models,
and replace the weights of a folder under those who use it; a server process beside them is asked all the time, by
clients that leave and that send half a body; texts are longer and shorter than a batch. The time is cut into rounds.
After each round every thread has ended, every handle is closed, garbage is collected and glibc's free pages are handed
back (`malloc_trim`): what is then resident is what leaked or is kept on purpose. The first two rounds are the warm-up,
since imports, kernel caches, thread pools and heap arenas grow once; the baseline is measured after them. The soak
fails if a result is wrong, a call does not end, an error is of an unexpected type, or if resident memory or native
threads end more than 5 % above the baseline.

oneDNN and torch keep a kernel for each size of a batch. The engine has few sizes, but rare ones come late, so the soak
sets both caches to 16 entries. glibc keeps freed pages by thread and by size, so what is resident would differ by a
tenth from round to round: one arena, and large blocks that go back when they are freed, make the rounds comparable.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

os.environ |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}  # read when torch first computes

import torch

import zh_retrieval as zr
from tests.soak.actions import FlakyStream
from tests.soak.kinds import WrongResultError, make_kinds, make_trainings
from tests.soak.served import ServerBeside
from tests.soak.state import Soak
from zh_retrieval.local.threads import tokenizers

LIBC = ctypes.CDLL("libc.so.6")
WARM_UP_ROUNDS = 2
GROWTH = 1.05


def resident() -> float:
    """Return the resident memory of the process in MB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_for_workers(soak: Soak) -> None:
    """Wait until the workers of closed models have ended the batch that ran: weights are free after that."""
    for thread in threading.enumerate():
        if thread.name.startswith("zh-retrieval") and not thread.name.startswith("zh-retrieval-text"):
            thread.join(120)
            if thread.is_alive():
                soak.fail(f"{thread.name} does not end", None)


def at_rest(soak: Soak) -> tuple[float, int]:
    """Unload everything and return resident MB and native threads; check that no work is left over first."""
    for adapter in (*soak.embedders, soak.compressor, soak.postprocessor):
        adapter.unload()
    for kind in soak.kinds:
        with kind.open() as handle:
            for method, inputs in kind.inputs.items():
                rows = list(range(0, len(inputs), 8))
                try:
                    kind.check(method, rows, getattr(handle, method)([inputs[row] for row in rows]))
                except WrongResultError as error:
                    soak.fail("at rest", error)
            scheduler = handle._model.scheduler
            left = [job for job in scheduler._jobs if not job.future.done()]
            room = [scheduler._room.tokens(priority) for priority in ("interactive", "bulk")]
            if left or any(room):
                soak.fail(
                    f"{kind.label}: {len(left)} jobs are left over, {room} tokens of room are not given back", None
                )
            del scheduler, handle
    zr.close_all()
    gc.collect()
    wait_for_workers(soak)
    LIBC.malloc_trim(0)
    time.sleep(0.5)
    return resident(), len(list(Path("/proc/self/task").iterdir()))


def run_round(soak: Soak, seconds: float, workers: int, number: int, longest: float) -> None:
    """Run all threads for a while and wait for them; a call that does not end fails the soak at once."""
    soak.until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=target, args=(number * 100 + index,), daemon=True)
        for index, target in enumerate([*[soak.sync_worker] * workers, *[soak.async_worker] * 2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)
            if lost := soak.overdue(longest):
                faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
                sys.exit(f"FAILED: calls did not end within {longest:.0f} s: {lost}")


def main() -> int:
    """Run the soak and return 0 if nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the time, two of them warm-up")
    parser.add_argument("--workers", type=int, default=4, help="threads beside the two event loops")
    parser.add_argument("--compute-threads", type=int, default=1, help="torch's threads for each forward pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=600.0, help="seconds after which a call counts as lost")
    options = parser.parse_args()
    logging.getLogger("zh_retrieval").setLevel(logging.ERROR)  # the cut texts are meant
    torch.set_num_threads(options.compute_threads)
    warnings.simplefilter("ignore", DeprecationWarning)  # forks of a process with threads are meant
    sys.stderr = FlakyStream(sys.stderr)
    LIBC.mallopt(-8, 1)  # M_ARENA_MAX
    LIBC.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, in bytes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(make_kinds(Path(folder)), make_trainings(Path(folder)), options.seed)
        sys.unraisablehook = lambda raised: soak.fail(f"unraisable in {raised.object!r}", raised.exc_value)
        threading.excepthook = lambda raised: soak.fail(f"thread {raised.thread}", raised.exc_value)
        text_threads = [tokenizers().submit(time.sleep, 0.2) for _ in range(4)]  # kept on purpose
        for started in text_threads:
            started.result()
        rests = []
        with ServerBeside(soak) as server:
            for number in range(options.rounds):
                run_round(soak, options.minutes * 60 / options.rounds, options.workers, number, options.longest)
                rests.append(at_rest(soak))
                server.rest()
                stage = "warm-up" if number < WARM_UP_ROUNDS else "round"
                calls = sum(soak.ended.values())
                print(f"{stage} {number + 1}: {calls} calls, {rests[-1][0]:.1f} MB, {rests[-1][1]} threads", flush=True)
                if soak.failures:
                    break
    return summary(soak, rests)


def summary(soak: Soak, rests: list[tuple[float, int]]) -> int:
    """Print what was done and whether it held; return the exit status."""
    for name, count in sorted(soak.ended.items()):
        print(f"  {name}: {count}")
    baseline, last = rests[min(WARM_UP_ROUNDS, len(rests)) - 1], rests[-1]
    begun, ended = sum(soak.begun.values()), sum(soak.ended.values())
    checks = {
        f"{len(soak.failures)} wrong results or unexpected errors": not soak.failures,
        f"{begun - ended} of {begun} calls lost": begun == ended and not soak.running,
        f"resident memory {baseline[0]:.1f} MB -> {last[0]:.1f} MB": last[0] <= baseline[0] * GROWTH,
        f"native threads {baseline[1]} -> {last[1]}": last[1] <= baseline[1] * GROWTH,
    }
    for failure in soak.failures[:5]:
        print(failure)
    for what, held in checks.items():
        print(f"{'ok' if held else 'FAILED'}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
