"""What the code imports is what pyproject.toml declares: nothing comes by the favour of another package."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = ("zh_retrieval", "langchain_zh_retrieval", "llama_index_zh_retrieval")
FOLDERS = {"zh_retrieval": ROOT / "shared" / "zh_retrieval"} | {name: ROOT / name for name in OURS[1:]}
EXTRA = {"langchain_zh_retrieval": "langchain", "llama_index_zh_retrieval": "llama-index"}
ROOMS = {"server": "server"}  # folders of the core that are imported with their extra only
PEERS = {"sentence-transformers", "mteb"}  # measured, or measuring us, where they are installed
STORES = {"langchain-milvus", "langchain-qdrant"}  # whose interfaces type checkers see in ours
DISTRIBUTIONS = packages_distributions()


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    return {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


BASE = names(PROJECT["dependencies"])
EXTRAS = {extra: names(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}


def for_types_alone(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(source):
    """Yield (module, True if it is imported when the file is), for each absolute import of a file."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) or for_types_alone(part)
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0], id(node) not in inside


def undeclared(package, file, source):
    """Return the modules of a file that no distribution of those declared for it provides."""
    if "examples/" in file:
        return []  # each says in its first lines what it shows; nothing imports it
    optional = set().union(*EXTRAS.values()) | PEERS
    found = []
    for module, at_once in imports(source):
        if module in sys.stdlib_module_names or module in OURS:
            continue
        if package in EXTRA:
            allowed = BASE | EXTRAS[EXTRA[package]] | (set() if at_once else STORES)
        elif file.startswith("frameworks/"):  # what both adapters share
            allowed = BASE | (EXTRAS["langchain"] & EXTRAS["llama-index"])
        else:
            room = EXTRAS[ROOMS[folder]] if (folder := file.split("/")[0]) in ROOMS else set()
            allowed = BASE | room if at_once else BASE | optional
        if not {normalized(name) for name in DISTRIBUTIONS.get(module, [module])} & allowed:
            found.append(module)
    return found


@pytest.mark.parametrize("package", OURS)
def test_every_import_is_a_declared_dependency(package):
    folder = FOLDERS[package]
    problems = {
        str(file.relative_to(folder)): missing
        for file in sorted(folder.rglob("*.py"))
        if (missing := undeclared(package, str(file.relative_to(folder)), file.read_text(encoding="utf-8")))
    }
    assert problems == {}


def test_every_dependency_has_a_range():
    requirements = [
        *PROJECT["dependencies"],
        *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
    ]
    assert [line for line in requirements if not line.startswith("zh-retrieval[") and ">=" not in line] == []


def test_an_import_that_is_not_declared_would_be_found():
    assert undeclared("zh_retrieval", "x.py", "import uvicorn") == ["uvicorn"]
    assert undeclared("zh_retrieval", "server/x.py", "import uvicorn, yaml") == ["yaml"]
    assert undeclared("zh_retrieval", "x.py", "import yaml") == ["yaml"]
    assert undeclared("zh_retrieval", "x.py", "import langchain_core") == ["langchain_core"]
    assert undeclared("zh_retrieval", "x.py", "def f():\n    import langchain_core\n    import yaml") == ["yaml"]
    assert undeclared("langchain_zh_retrieval", "x.py", "import llama_index.core") == ["llama_index"]
    assert undeclared("langchain_zh_retrieval", "x.py", "import langchain_qdrant") == ["langchain_qdrant"]
    assert undeclared("zh_retrieval", "frameworks/calls.py", "import pydantic, numpy") == []
