"""Install the wheel as a user does, from the package index, and run the README's blocks; run by `make fresh`.

Each environment is new: no torch may be in it, and it may not be larger than the README says.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.packaging.check_wheel import ROOT, build

SIZES = {"langchain": 450, "llama-index": 560, "remote": 450}  # MB of site-packages, pip's own included
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
PROGRAMS = {"langchain": BLOCKS[0], "llama-index": BLOCKS[1]}
ANSWER = "绿茶用八十度的水冲泡。"
REMOTE = """
import sys
import zh_retrieval as zr
encoder = zr.load_encoder("e5-small-zh", base_url=sys.argv[1])
assert encoder.encode_queries(["泡绿茶水温多少？"]).shape == (1, 384)
assert not {"torch", "transformers", "openvino"} & set(sys.modules)
print("绿茶用八十度的水冲泡。")
"""


def main() -> None:
    """Exit with an error if an installation is not what the README says."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(Path(scratch))
        for extra, most in SIZES.items():
            python = _installed(Path(scratch) / extra, f"{wheel}[{extra}]")
            site = next(python.parents[1].glob("lib/python*/site-packages"))
            heavy = [name for name in ("torch", "transformers") if (site / name).exists()]
            size = sum(file.lstat().st_size for file in site.rglob("*") if file.is_file()) / 1e6
            assert not heavy, heavy
            assert size < most, f"[{extra}]: {size:.0f} MB, expected less than {most}"
            assert _said(python, extra, scratch) == ANSWER
            print(f"[{extra}]: {size:.0f} MB without torch; its block of the README runs")


def _installed(folder: Path, requirement: str) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement], check=True)
    return python


def _said(python: Path, extra: str, scratch: str) -> str:
    if extra in PROGRAMS:
        return _run(python, scratch, PROGRAMS[extra])
    with _server() as url:
        return _run(python, scratch, REMOTE, url)


def _run(python: Path, scratch: str, code: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=scratch, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-m", "zh_retrieval.cli.main", "serve", "--model", "e5-small-zh", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
