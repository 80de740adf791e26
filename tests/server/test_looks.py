"""Playground and report as people see them: on a phone and a screen, light and dark, in both languages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from tests.server.browser import CONTROL, Browser, Page, browsing
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.report import write
from zh_retrieval.server.settings import Settings

pytestmark = pytest.mark.slow

WIDTHS, SCHEMES, LANGUAGES = (375, 1280), ("light", "dark"), ("en", "zh")
DOCUMENTS = ["长城在北京。", "西湖在杭州，" + "湖水很美，" * 40, "https://example.org/" + "a" * 300, "龙井茶产于杭州。"]
# What a person cannot read or reach: [text, contrast] below WCAG's 4.5 (3 for large text), and boxes beyond the page.
PALE = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => (part * a + below[at] * (255 - a)) / 255);
  const light = (color) => color.map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    if (!element) return rgba(getComputedStyle(document.documentElement).colorScheme.includes("dark")
      && matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#fff").slice(0, 3);
    return over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    const style = getComputedStyle(element);
    if (!text || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })
      || element.closest("option, select, script, style, svg, [disabled]")) continue;
    const ground = behind(element), ink = over(rgba(style.color), ground);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < (large ? 3 : 4.5)) found.push([text.slice(0, 30), Math.round(contrast * 100) / 100]);
  }
  return found;
})()
"""
WIDE = "document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
SMALL = """
[...document.querySelectorAll("button, select, input, textarea, summary, a")]
  .filter((field) => field.checkVisibility() && (field.closest("label") ?? field).getBoundingClientRect().height < 24)
  .filter((field) => getComputedStyle(field).display !== "inline")
  .map((field) => field.outerHTML.slice(0, 60))
"""

BROKEN = """
(() => {
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.checkVisibility() || node.parentElement.closest("script, style, svg, textarea")) continue;
    for (const word of node.textContent.matchAll(/[A-Za-z0-9]{2,}/g)) {
      if (word[0].length > 14) continue;
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) found.push(word[0]);
    }
  }
  return found;
})()
"""  # short words that a narrow column cuts in two


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("transformers")
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    with serving(Settings(("e5-small-zh", f"bge-reranker-large={folder}"), {"dtype": "float32"})) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    data = tea.dataset()
    first = Written("e5-small-zh", {f"q{n}": [f"d{(n + 1) % 10}-0", f"d{n}-3"] for n in range(10)}, ms=17.0)
    second = Written("e5-small-zh + bge-reranker-large", {f"q{n}": [f"d{n}-{p}" for p in range(5)] for n in range(10)},
                     base=first, ms=412.0)  # fmt: skip
    file = tmp_path_factory.mktemp("report") / "report.html"
    write(evaluate_systems(data, [first, second]), file)
    return file.as_uri()


def seen(page: Page, name: str) -> dict[str, object]:
    if folder := os.environ.get("ZH_RETRIEVAL_PICTURES"):
        page.shot(Path(folder) / f"{name}.png")
    found = {"pale": page.value(PALE), "beyond": max(0, page.value(WIDE)), "small": page.value(SMALL)}
    found["broken"] = page.value(BROKEN)
    return {what: faults for what, faults in found.items() if faults}


def looks(page: Page, name: str, say: dict[str, str]) -> dict[str, object]:
    """Return what is wrong in each of eight looks; `say` sets a language."""
    wrong = {}
    for language, scheme, width in product(LANGUAGES, SCHEMES, WIDTHS):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        page.value(say[language])
        shown = page.value("document.body.innerText")
        assert ("Documents" in shown or "Systems" in shown) == (language == "en"), shown[:200]
        look = f"{name}-{language}-{scheme}-{width}"
        wrong[look] = seen(page, look)
    return {look: faults for look, faults in wrong.items() if faults}


def test_the_playground_can_be_read_and_reached_in_every_look(server: Server, browser: Browser) -> None:
    with browser.tab() as page:
        page.open(f"{server.url}/")
        page.wait("document.querySelectorAll('option').length")
        for field, text in (("query", "西湖在哪里？"), ("documents", "\n".join(DOCUMENTS))):
            page.value(f"document.getElementById('{field}').focus()")
            page.write(text)
        page.press("Enter", CONTROL)
        page.wait("document.querySelectorAll('#stages section:nth-child(2) li').length === 4")
        change = "document.documentElement.lang.startsWith('{}') || document.getElementById('language').click()"
        assert looks(page, "playground", {name: change.format(name) for name in LANGUAGES}) == {}
        assert page.complaints == []


def test_the_report_can_be_read_and_reached_in_every_look(report: str, browser: Browser) -> None:
    with browser.tab() as page:
        page.open(report)
        change = "document.getElementById('{}').click()"
        words = {"en": "english", "zh": "chinese"}
        assert looks(page, "report", {name: change.format(word) for name, word in words.items()}) == {}
        assert page.complaints == []
