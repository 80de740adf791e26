"""Code reads entries: no model is named outside the recipes."""

import ast
import re
from pathlib import Path

import zh_retrieval as zr

ROOT = Path(__file__).parents[2]
ORDINARY = {"builtin"}  # an alias that is also what a kind of source is called


def strings(file):
    """Yield every string constant of a module that is no docstring, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_no_string_outside_the_recipes_names_a_model():
    ids = {source.id for spec in zr.MODELS for source in spec.sources}
    names = {name for spec in zr.MODELS for name in (spec.name, *spec.aliases)} | ids
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(names - ORDINARY)))})(?![\w-])", re.I)
    packages = ("shared/zh_retrieval", "langchain_zh_retrieval", "llama_index_zh_retrieval")
    files = [
        file
        for package in packages
        for file in (ROOT / package).rglob("*.py")
        if not {"recipes", "examples"} & set(file.parts)
    ]
    assert len(files) > 50
    found = [
        f"{file.relative_to(ROOT)}:{line} {text!r}"
        for file in files
        for line, text in strings(file)
        if pattern.search(text)
    ]
    assert found == []
