"""Every Python block of every page runs, and what pages list is what the code says."""

import re
import shlex
from pathlib import Path

import pytest

from zh_retrieval.cli.commands.models import describe
from zh_retrieval.cli.main import parser
from zh_retrieval.options import OPTIONS, table
from zh_retrieval.recipes import registry
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.rules import ARCHITECTURES
from zh_retrieval.recipes.situations import situation_rows

ROOT = Path(__file__).resolve().parents[2]
CORE = "shared/zh_retrieval"
FIRST = ("README.md", "README.zh-CN.md")
PAGES = (
    *FIRST,
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / CORE).rglob("README.md") if "builtin" not in page.parts),
)
NEEDS = ("ray", "qdrant")  # blocks whose other side is not here; the rooms' own tests run what they show


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.S)


SNIPPETS = [
    (page.removeprefix(f"{CORE}/").replace("/", "_"), number, code)
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Let every block register its models in a fresh catalogue."""
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._known)


@pytest.mark.parametrize(
    ("name", "code"), [pytest.param(name, code, id=f"{name}-{number}") for name, number, code in SNIPPETS]
)
def test_blocks_run_and_find_the_right_text(name, code, capsys):
    compiled = compile(code, name, "exec")
    if any(word in code for word in NEEDS):
        return
    exec(compiled, {})
    shown = capsys.readouterr().out
    assert ("print" in code) == bool(shown)
    if "invoke(" in code.replace("chain.invoke", "") or "retrieve(" in code:
        assert shown.strip() == "绿茶用八十度的水冲泡。"
    if commented := re.findall(r"^# (.+)$", code, re.M):
        assert shown.splitlines() == commented


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_has_these_flags(page, capsys):
    for line in re.findall(
        r"^(?:\w+=\S+ )*(zh-retrieval .+?(?:\\\n.+?)*)$", "\n".join(blocks(page, "(?:bash)?")), re.M
    ):
        words = shlex.split(line.replace("\\\n", " "), comments=True)[1:]
        try:
            known, unknown = parser().parse_known_args(words)
        except SystemExit as ended:  # a flag that shows something and ends
            if ended.code:
                pytest.fail(capsys.readouterr().err)
        else:
            assert known.command
            assert unknown == []


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_to_files(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text_of(page)) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", FIRST)
def test_the_first_page_is_short_and_leads_to_all_others(page):
    text = text_of(page)
    assert 120 <= len(text.splitlines()) <= 170
    assert len(text.split()) <= 1700
    assert [other for other in PAGES if other not in FIRST and f"({other})" not in text] == []


def test_the_model_table_is_the_generated_one():
    rows = []
    for spec in MODELS:
        entry = describe(spec)
        row = [entry[key] or "-" for key in ("name", "task", "dimension", "max_tokens", "size", "licence", "hub_id")]
        rows.append(f"| {' | '.join(map(str, row))} |")
    shown = re.findall(r"^\| .* \|$", text_of(f"{CORE}/recipes/README.md").partition("<!-- models:")[2], re.M)
    assert [row for row in shown if row.startswith(tuple(f"| {spec.name} |" for spec in MODELS))][: len(rows)] == rows


def test_the_table_by_situation_is_the_generated_one():
    shown = text_of(f"{CORE}/recipes/README.md").partition("<!-- situations:")[2]
    rows = re.findall(r"^\| (.*) \| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", shown, re.M)
    assert rows == situation_rows(MODELS)


@pytest.mark.parametrize("page", FIRST)
def test_the_models_of_the_first_page_are_known(page):
    table = (
        text_of(page).partition("| e5-small-zh |")[0].rpartition("##")[2]
        + text_of(page).partition("| e5-small-zh |")[2].partition("##")[0]
    )
    named = re.findall(r"\b(?:bge|gte-multilingual|jina|e5|qwen3|rankinggpt|multilingual)[\w.-]*", table)
    assert len(named) >= 10
    for name in named:
        registry.get_spec(name)


def test_the_option_table_is_the_generated_one():
    shown = text_of(f"{CORE}/local/README.md").partition("<!-- options:")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (?:`(.*)` )?\|$", shown, re.M)
    assert [row for row in rows if row[0] in OPTIONS] == table()


def test_the_page_on_recipes_names_the_variable_and_every_architecture():
    text = text_of(f"{CORE}/recipes/README.md")
    assert f"export {registry.OWN_MODELS}=" in text
    assert [architecture for architecture in ARCHITECTURES if f"`{architecture}`" not in text] == []
