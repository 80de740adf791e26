"""The playground in a real browser: by keyboard alone, in two languages, whatever the texts hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.browser import CONTROL, Browser, Page, browsing
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

QUERY = "西湖在哪里？"
ATTACK = "<img src='http://127.0.0.1:9/x' onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
BUSY = "document.getElementById('compare').hasAttribute('aria-busy')"
DOCUMENTS = ["长城在北京。", "西湖在杭州。", ATTACK, "茶" * 2000, "龙井茶产于杭州。"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    models = ("e5-small-zh", f"bge-reranker-large={folder}", "bm25-zh")
    with serving(Settings(models, {"dtype": "float32"}, keys=("sesame",))) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    with browser.tab() as tab:
        tab.open(f"{server.url}/")
        tab.wait("document.activeElement.id === 'key'")  # it asks for the key by itself
        assert not tab.value("[...document.querySelectorAll('select')].filter(list => list.offsetParent).length")
        tab.write("sesame")
        tab.press("Tab")
        tab.wait("document.getElementById('reranker').offsetParent && document.querySelectorAll('option').length")
        yield tab


def compare(page: Page, query: str, documents: list[str]) -> None:
    """Fill in and send, with keys only."""
    for field, text in (("query", query), ("documents", "\n".join(documents))):
        page.value(f"document.getElementById('{field}').focus()")
        page.write(text)
    page.press("Enter", CONTROL)
    page.wait(f"!{BUSY} && /{len(documents)} documents|{len(documents)} 篇/"
              ".test(document.getElementById('status').textContent)")  # fmt: skip


def rows(page: Page, stage: int) -> list[tuple[int, float]]:
    script = (
        f"[...document.querySelectorAll('#stages section:nth-child({stage}) li')].map("
        "row => [Number(row.dataset.document), Number(row.querySelector('.score').textContent)])"
    )
    return [(index, score) for index, score in page.value(script)]


def test_both_sides_and_their_sum_are_those_of_the_core(page: Page) -> None:
    compare(page, QUERY, DOCUMENTS)
    with zr.load_encoder("e5-small-zh", dtype="float32") as encoder:
        cosines = encoder.encode_documents(DOCUMENTS) @ encoder.encode_queries([QUERY])[0]
    dense = [(index, float(cosines[index])) for index in np.argsort(-cosines)]
    with zr.load_sparse_encoder("bm25-zh") as sparse:
        vectors, (asked,) = sparse.encode_documents(DOCUMENTS), sparse.encode_queries([QUERY])
    scores = []
    for vector in vectors:
        shared = set(asked.as_dict()) & set(vector.as_dict())
        holding = {index: sum(index in other.as_dict() for other in vectors) for index in shared}
        rarity = {index: np.log(1 + (len(vectors) - n + 0.5) / (n + 0.5)) for index, n in holding.items()}
        scores.append(sum(rarity[index] * vector.as_dict()[index] for index in shared))
    lexical = sorted(((i, float(score)) for i, score in enumerate(scores) if score > 0), key=lambda pair: -pair[1])
    assert lexical
    expected = [(hit.id, hit.score) for hit in zr.fuse(dense, lexical)]
    for stage, side in ((2, lexical), (3, expected)):
        found = rows(page, stage)
        assert [index for index, _ in found] == [index for index, _ in side]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in side], atol=6e-5)


def test_two_stages_are_those_of_the_handles(page: Page, server: Server) -> None:
    compare(page, QUERY, DOCUMENTS)
    with zr.load_encoder("e5-small-zh", dtype="float32") as encoder:
        cosines = encoder.encode_documents(DOCUMENTS) @ encoder.encode_queries([QUERY])[0]
    first = rows(page, 1)
    assert [index for index, _ in first] == list(np.argsort(-cosines))
    np.testing.assert_allclose([score for _, score in first], sorted(cosines, reverse=True), atol=6e-5)
    body = {"model": "bge-reranker-large", "query": QUERY, "documents": DOCUMENTS}
    listed = server.post("/v1/rerank", body, headers={"authorization": "Bearer sesame"}).json()["results"]
    second, before = rows(page, 4), rows(page, 3)
    assert sorted(index for index, _ in second) == list(range(len(DOCUMENTS)))
    np.testing.assert_allclose(
        [score for _, score in second], [entry["relevance_score"] for entry in listed], atol=6e-5
    )
    place = [index for index, _ in before].index(second[0][0])
    moved = page.value("document.querySelector('#stages section:nth-child(4) .moved').ariaLabel")
    assert moved == (f"{place} up" if place else "as before")


def test_a_hostile_text_is_shown_and_does_nothing(page: Page, server: Server) -> None:
    compare(page, ATTACK, DOCUMENTS)
    assert ATTACK in page.value("document.getElementById('stages').innerText")
    assert page.value("document.title") == "zh-retrieval playground"
    assert not page.value("document.querySelectorAll('#stages img, #stages script').length")
    assert all(url.startswith((server.url, "data:")) for url in page.requests)
    expected = [line for line in page.complaints if "401" in line]  # the first look, without a key
    assert page.complaints == expected


def test_tokens_and_cuts_are_shown(page: Page) -> None:
    compare(page, QUERY, DOCUMENTS)
    cut = page.value("document.querySelector('#stages section li[data-document=\"3\"] summary').textContent")
    assert "cut: the first 512 of" in cut
    page.value("document.querySelector('#stages li[data-document=\"3\"] summary').focus()")
    page.press("Enter")
    count = "document.querySelectorAll('#stages li[data-document=\"3\"] .tokens {}').length"
    everything = page.wait(count.format("span"))
    assert everything - page.value(count.format(".lost")) == 512
    assert "1 cut" in page.value("document.querySelector('#stages .facts .cut').textContent")


def test_the_keyboard_reaches_everything_in_order(page: Page) -> None:
    page.value("document.getElementById('language').focus()")
    seen = []
    for _ in range(8):
        seen.append(page.value("document.activeElement.id || document.activeElement.tagName"))
        page.press("Tab")
    assert seen == ["language", "A", "query", "documents", "encoder", "reranker", "first", "key"]
    unnamed = "[...document.querySelectorAll('textarea, select, input')].filter(field => !field.labels.length).length"
    assert page.value(unnamed) == 0


def test_the_language_changes_with_what_is_shown(page: Page) -> None:
    compare(page, QUERY, DOCUMENTS)
    assert page.value("document.documentElement.lang") == "en"
    page.value("document.getElementById('language').focus()")
    page.press("Enter")
    assert page.value("document.documentElement.lang") == "zh-Hans"
    text = page.value("document.body.innerText")
    for words in ("问题", "余弦相似度", "个词元", "5 篇文档"):
        assert words in text
    assert "cosine" not in text


def test_both_languages_have_the_same_words(page: Page) -> None:
    words = (
        (files("zh_retrieval.server") / "playground" / "page.js").read_text(encoding="utf-8").split("const PAUSE")[0]
    )
    kinds = "Object.fromEntries(Object.entries(WORDS.{}).map(([name, said]) => [name, typeof said]).sort())"
    english, chinese = page.value(f"(() => {{ {words} return [{kinds.format('en')}, {kinds.format('zh')}] }})()")
    assert english == chinese
    used = page.value("[...document.querySelectorAll('[data-word]')].map(place => place.dataset.word)")
    assert set(used) <= set(english)


def test_a_wrong_key_is_said_and_the_right_one_stays_nowhere(page: Page) -> None:
    page.value("document.getElementById('key').focus()")
    page.write("wrong")
    page.press("Enter")
    page.wait(f"!{BUSY} && /not one of the server's keys/.test(document.getElementById('status').textContent)")
    page.write("sesame")
    compare(page, QUERY, DOCUMENTS)
    kept = page.value("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert "sesame" not in kept
    assert all("sesame" not in url for url in page.requests)


def test_depth_limits_the_second_stage(page: Page) -> None:
    page.value("document.getElementById('first').focus()")
    page.write("2")
    compare(page, QUERY, DOCUMENTS)
    before = [index for index, _ in rows(page, 3)]
    assert before[:2] == sorted((index for index, _ in rows(page, 4)), key=before.index)


def test_both_stages_stay_side_by_side_on_a_phone(page: Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=375, height=812, deviceScaleFactor=1, mobile=True)
    compare(page, QUERY, DOCUMENTS)
    tops = "[...document.querySelectorAll('#stages section')].map(stage => stage.getBoundingClientRect().top)"
    first, second, *_ = page.value(tops)
    assert first == second
    assert page.value("document.querySelectorAll('#stages section')[1].getBoundingClientRect().left") < 375
    assert page.value("document.scrollingElement.scrollWidth") <= 375


def test_only_a_browser_gets_the_page() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, keys=("k",))) as server:
        plain = server.get("/")
        assert plain.json() == {"status": "ok"}
        shown = httpx.get(f"{server.url}/", headers={"accept": "text/html,*/*;q=0.8"})
        assert "default-src 'none'" in shown.headers["content-security-policy"]
        assert "unsafe" not in shown.headers["content-security-policy"]
        assert "http" not in shown.text.replace("https://", "http")
        for name in ("page.css", "page.js"):
            assert server.get(f"/playground/{name}").status_code == 200


@pytest.mark.skipif("ZH_RETRIEVAL_PICTURES" not in os.environ, reason="makes pictures to look at")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_pictures(page: Page, scheme: str, width: int) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    if scheme == "dark":
        page.value("document.getElementById('language').click()")
    compare(page, QUERY, DOCUMENTS)
    page.value("document.querySelector('#stages summary').click()")
    page.shot(Path(os.environ["ZH_RETRIEVAL_PICTURES"]) / f"{scheme}-{width}.png")
