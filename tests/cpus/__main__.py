"""The graphs on other CPUs, which qemu emulates, against this one; run by `make test-cpus`.

FOLDER keeps what is downloaded from Debian's mirror and from the package index, 650 MB unpacked. Nothing is installed.
Exit status: 0, all is right; 1, something is wrong; 2, it cannot be run here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cpus.checkpoints import CASES, make
from tests.cpus.comparing import Result, compare
from tests.cpus.emulators import emulator, foreign_python, missing

SHARED = Path(__file__).parents[2] / "shared"
PROGRAM = Path(__file__).with_name("computing.py")
CPUS = {
    "limited": "this CPU, of which oneDNN may use AVX alone: OpenVINO says that it computes int8, and finds no kernel",
    "Haswell": "x86-64 with AVX2",
    "Westmere": "x86-64 with SSE4.2",
    "aarch64": "64-bit ARM",
}
MAY_REFUSE = {"limited": ("bfloat16", "int8", "int4")}


def main() -> int:
    """Return the exit status."""
    options = _options()
    lacking = missing()
    if platform.machine() != "x86_64" or lacking:
        print(f"This needs Debian on x86-64; missing here: {', '.join(lacking) or 'x86-64'}", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Path(scratch)
        make(checkpoints, options.model or list(CASES))
        here = list(results([sys.executable], [SHARED], checkpoints))
        for cpu in options.cpu or CPUS:
            command, path = emulated(cpu, options.folder)
            print(f"\n{cpu}: {CPUS[cpu]}", flush=True)
            there = results(command, path, checkpoints, options.minutes)
            for finding in compare(here, there, MAY_REFUSE.get(cpu, ())):
                wrong += not finding.right
                print(finding, flush=True)
    print(f"\n{wrong} wrong")
    return int(wrong > 0)


def results(
    command: Sequence[str | Path], path: Sequence[Path], checkpoints: Path, minutes: float = 30
) -> Iterator[Result]:
    """Yield what `computing` prints in so many minutes, run by a Python that finds its modules in `path`."""
    left_out = ("ZH_RETRIEVAL_", "ONEDNN_", "OPENBLAS_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1",
        "ZH_RETRIEVAL_ROUNDED_WEIGHTS": "off", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    line = ["nice", *map(str, command), str(PROGRAM), str(checkpoints)]
    with tempfile.TemporaryFile("w+") as errors:  # an emulator says much that means nothing
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            timer = threading.Timer(60 * minutes, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                yield from (
                    json.loads(each) for each in process.stdout if each.endswith("\n")
                )  # not a killed one's last
                process.wait()
            finally:
                timer.cancel()
                process.kill()
        if process.returncode:
            errors.seek(0)
            print(f"ended with {process.returncode}:", *errors.readlines()[-20:], sep="\n", file=sys.stderr)


def emulated(cpu: str, folder: Path) -> tuple[list[str | Path], list[Path]]:
    """Return the command of a Python on a CPU, and where it finds its modules."""
    if cpu == "limited":
        return ["env", "ONEDNN_MAX_CPU_ISA=AVX", sys.executable], [SHARED]
    if cpu != "aarch64":
        return [emulator(folder / "qemu", "x86_64"), "-cpu", cpu, sys.executable], [SHARED]
    python, site = foreign_python(folder)
    root = python.parents[2]
    return [emulator(folder / "qemu", "aarch64"), "-cpu", "max", "-L", root, python, "-S"], [site, SHARED]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cpus", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir()) / "zh-retrieval-cpus")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="one of them; may be repeated (default: all)")
    parser.add_argument("--model", action="append", choices=CASES, help="one of them; may be repeated (default: all)")
    parser.add_argument("--minutes", type=float, default=60, help="that a CPU is given (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
