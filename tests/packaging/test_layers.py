"""What is public, and what importing costs. What imports what is said in pyproject.toml, for import-linter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zh_retrieval as zr
from zh_retrieval import errors

CORE = Path(zr.__file__).parent
FOREIGN = {"langchain_core", "langchain_classic", "llama_index", "fastapi", "ray"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def core_files():
    return [file for file in CORE.rglob("*.py") if file != CORE / "__init__.py"]


def test_the_core_imports_no_framework():
    allowed = {CORE / "cli" / "searching.py"}  # the demo's chains, imported where they are built
    for file in set(core_files()) - allowed:
        assert not FOREIGN & {module.split(".")[0] for module in imported(file)}, file


def test_nothing_imports_the_folder_shared():
    root = CORE.parents[1]
    for package in (CORE, root / "langchain_zh_retrieval", root / "llama_index_zh_retrieval", root / "tests"):
        for file in package.rglob("*.py"):
            assert "shared" not in {module.split(".")[0] for module in imported(file)}, file


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, zh_retrieval; print(sorted({'torch','transformers','numpy','pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_public_names_are_exact():
    assert sorted(zr.__all__) == sorted(set(zr.__all__))
    assert all(getattr(zr, name) is not None for name in zr.__all__)
    with pytest.raises(AttributeError):
        zr.no_such_name  # noqa: B018


def test_every_error_is_ours_and_a_builtin():
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(found) == 12
    for error in found:
        assert issubclass(error, zr.ZhRetrievalError)
        assert error is zr.ZhRetrievalError or error.__bases__[1].__module__ == "builtins"
        assert getattr(zr, error.__name__) is error


def test_code_never_asks_for_remote_code():
    for file in core_files():
        assert "trust_remote_code" not in file.read_text(encoding="utf-8"), file
