"""What a user's type checker says of our calls: mypy --strict and pyright, over every public call and the READMEs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.test_readme import ROOT, SNIPPETS

PACKAGES = ("shared/zh_retrieval", "langchain_zh_retrieval", "llama_index_zh_retrieval")
CALLS = Path(__file__).with_name("typed") / "calls.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the calls and every block of the READMEs, and the packages where an install puts them."""
    folder = tmp_path_factory.mktemp("typed")
    shutil.copy(CALLS, folder / "calls.py")
    for name, number, code in SNIPPETS:
        (folder / f"{name.replace('.', '_').replace('-', '_')}_{number}.py").write_text(code, encoding="utf-8")
    site = folder / "site"
    site.mkdir()
    for package in PACKAGES:
        (site / Path(package).name).symlink_to(ROOT / package)
    return folder


@pytest.fixture(scope="module")
def wrong():
    lines = CALLS.read_text(encoding="utf-8").splitlines()
    return {("calls.py", number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def test_every_package_says_that_it_has_types():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


@pytest.mark.slow
def test_mypy_flags_what_is_wrong_and_nothing_else(folder, wrong):
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(folder / "cache"),
    ]
    files = sorted(file.name for file in folder.glob("*.py"))
    done = subprocess.run(
        [*command, *files], cwd=folder, env=os.environ | {"MYPYPATH": "site"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.M)
    assert {(name, int(line)) for name, line, _ in found} == wrong, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_flags_what_is_wrong_and_nothing_else(folder, wrong):
    settings = {"include": ["*.py"], "extraPaths": ["site"], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", str(folder)], capture_output=True, text=True, check=False)
    found = [entry for entry in json.loads(done.stdout)["generalDiagnostics"] if entry["severity"] == "error"]
    places = {(Path(entry["file"]).name, entry["range"]["start"]["line"] + 1) for entry in found}
    assert places == wrong, json.dumps(found, indent=1)
