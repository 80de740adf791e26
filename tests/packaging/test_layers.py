"""What is public, and what importing costs. What imports what is said in pyproject.toml, for import-linter."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
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


def test_no_files_import_each_other_in_a_circle_types_included():
    packages = ("zh_retrieval", "langchain_zh_retrieval", "llama_index_zh_retrieval")
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) - {"zh_retrieval"} for module in graph.modules}
    left = {module: needs[module] & needs.keys() for module in needs if module != "zh_retrieval"}  # its names are lazy
    while ends := {
        module for module in left if not left[module] or all(module not in other for other in left.values())
    }:
        left = {module: needed - ends for module, needed in left.items() if module not in ends}
    assert left == {}


def test_where_a_change_belongs_is_there():
    page = (CORE / "README.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`(\w+(?:/[\w.]+)+|\w+\.py)`", page))
    assert {"server/dialects", "files/reading/formats", "recipes/spec.py"} <= places
    assert sorted(place for place in places if not (CORE / place).exists()) == []
