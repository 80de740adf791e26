"""The suite in an environment that has no torch: everything but the tests that make checkpoints with it.

`python -m tests.without_torch FOLDER [pytest's arguments]` makes the environment in FOLDER of the packages here.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import traceback
import venv
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "sentence_transformers", "peft")
LEFT_OUT = (*HEAVY, "functorch", "torchgen", "triton", "nvidia", "accelerate")
PRESENT = find_spec("torch") is not None


class _Absent:
    """In place of torch: a test that uses it is skipped."""

    def __getattr__(self, name: str) -> NoReturn:
        import pytest

        pytest.skip("needs torch")


torch: Any = importlib.import_module("torch") if PRESENT else _Absent()
"""torch for a file of which some tests need none."""


@cache
def needs_torch(file: Path) -> bool:
    """Return True if a file of tests imports torch when it is imported itself, or by what it imports of the tests."""
    for module in _imports(file):
        if module.split(".")[0] in HEAVY or module.startswith("zh_retrieval.bench"):
            return True
        other = ROOT / (module.replace(".", "/") + ".py")
        if module.startswith("tests.") and other.is_file() and needs_torch(other):
            return True
    return False


def asked_by_a_test(error: ModuleNotFoundError) -> bool:
    """Return True if the import that failed stands in a file of the tests, and not in the package."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return error.name in HEAVY and Path(last).is_relative_to(ROOT / "tests")


def _imports(file: Path) -> list[str]:
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def make(folder: Path) -> Path:
    """Return the interpreter of a new environment that has this one's packages, torch and what needs it left out."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    mine = Path(next(path for path in sys.path if path.endswith("site-packages")))
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for entry in mine.iterdir():
        if not entry.name.lower().replace("-", "_").startswith(LEFT_OUT):
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def main() -> int:
    """Run pytest there and return its status."""
    python = make(Path(sys.argv[1]))
    check = "from importlib.util import find_spec; assert not any(map(find_spec, ('torch', 'transformers')))"
    subprocess.run([python, "-c", check], check=True)
    return subprocess.run([python, "-m", "pytest", *sys.argv[2:]], check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
