"""Every Python snippet of the READMEs runs, and their tables say what the code says."""

import re
from pathlib import Path

import pytest

from zh_retrieval.cli.commands.models import describe
from zh_retrieval.options import OPTIONS, table
from zh_retrieval.recipes import registry
from zh_retrieval.recipes.catalogue import BUILTIN, MODELS, SIX
from zh_retrieval.recipes.rules import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh-CN.md")
SNIPPETS = [
    (name, number, code)
    for name in READMES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S))
]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Let every snippet register its models in a fresh catalogue."""
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._known)


@pytest.mark.parametrize(("name", "number", "code"), SNIPPETS, ids=[f"{name}-{number}" for name, number, _ in SNIPPETS])
def test_snippets_run_and_find_the_right_text(name, number, code, capsys):
    exec(compile(code, f"{name}[{number}]", "exec"), {})
    shown = capsys.readouterr().out
    assert ("print" in code) == bool(shown)
    if "invoke" in code or "retrieve(" in code:
        assert shown.strip() == "绿茶用八十度的水冲泡。"


@pytest.mark.parametrize("name", READMES)
def test_the_model_table_is_the_generated_one(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = []
    for spec in MODELS:
        entry = describe(spec)
        row = [entry[key] or "-" for key in ("name", "task", "dimension", "max_tokens", "size", "licence", "hub_id")]
        rows.append(f"| {' | '.join(map(str, row))} |")
    mission = len(SIX) + len(BUILTIN)
    for part in (rows[:mission], rows[mission:]):
        assert "\n|---|---|---|---|---|---|---|\n" + "\n".join(part) + "\n\n" in text


def option_rows(name):
    text = (ROOT / name).read_text(encoding="utf-8").partition("<!-- options:")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (?:`(.*)` )?\|$", text, re.M)
    return [row for row in rows if row[0] in OPTIONS]


def test_the_option_table_is_the_generated_one():
    assert option_rows("README.md") == table()


def test_the_translated_option_table_has_the_same_names_and_variables():
    rows = option_rows("README.zh-CN.md")
    assert [(name, variable) for name, _, variable in rows] == [(name, variable) for name, _, variable in table()]


@pytest.mark.parametrize("name", READMES)
def test_the_section_on_own_models_names_the_variable_and_every_architecture(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert f"export {registry.OWN_MODELS}=" in text
    assert [architecture for architecture in ARCHITECTURES if f"`{architecture}`" not in text] == []
