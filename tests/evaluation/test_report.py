"""The report: complete, in two languages, and harmless whatever the texts hold."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation.dataset import Dataset, Fault, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.faults.kinds import KINDS
from zh_retrieval.evaluation.report import write, write_picture
from zh_retrieval.evaluation.report.chart import chart
from zh_retrieval.evaluation.report.page import render
from zh_retrieval.evaluation.run import Run

ATTACK = (
    "<script>document.title='owned'</script><img src=\"http://127.0.0.1:9/x\" onerror=\"console.error('owned')\">'\"&"
)


def evaluation(*, ms=(1.5, 40.0)):
    data = tea.dataset()
    corpus = {**data.corpus, "d0-0": Passage(ATTACK, title=ATTACK), "d3-1": Passage("控制\x00字符\ud800")}
    queries = {**data.queries, "q0": f"问题{ATTACK}"}
    data = Dataset(f"茶{ATTACK}", queries, corpus, data.qrels, synthetic=True)
    bad = {query: [f"d{(int(query[1:]) + 1) % 10}-0", f"d{query[1:]}-3"] for query in queries}
    good = {query: [f"d{query[1:]}-{p}" for p in range(5)] for query in queries}
    first = Written("first", bad, ms=ms[0])
    return evaluate_systems(data, [first, Written(f"first + {ATTACK}", good, base=first, ms=ms[1])])


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def scripts(page):
    return re.findall("<script>(.*?)</script>", page, re.S)


@pytest.mark.parametrize("language", [None, "en", "zh"])
def test_a_hostile_text_is_shown_and_does_nothing(language):
    page = render(evaluation(), language)
    seen = Tags(page).seen
    tags = {tag for tag, _ in seen}
    assert not tags & {"img", "iframe", "object", "link", "a", "form"}
    for _, attributes in seen:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    assert page.count("&lt;script&gt;") >= 5
    assert "default-src 'none'" in page
    assert len(scripts(page)) == (language is None)  # ours alone, and only where the browser's language counts
    for script in scripts(page):
        assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page
    page.encode("utf-8")
    assert "\x00" not in page


def test_everything_found_is_in_both_languages():
    found = evaluation()
    page = render(found, "en")
    comparison = found.comparisons[0]
    for words in ("10 questions gained", "10 个问题变好", "合成问题", "Synthetic questions", "95 %"):
        assert words in page
    assert comparison.verdict == "pays"
    assert "pays" in page
    assert "值得" in page
    assert page.count('lang="en"') - 1 == page.count('lang="zh-Hans"') > 40  # one is <html>
    assert "unjudged-top" in page
    assert "d1-0" in page  # what the baseline found
    assert re.search(r"正确，等级 2", page)


class Shown(HTMLParser):
    """The words that a reader of one language sees."""

    def __init__(self, page, hidden):
        super().__init__()
        self.hidden, self.stack, self.words = hidden, [], []
        self.feed(page.partition("<main>")[2].partition("</main>")[0])

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.stack.append(dict(attrs).get("lang") == self.hidden or tag == "style")

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        if not any(self.stack):
            self.words.append(data)


def test_a_reader_sees_one_language_chart_and_sweep_included():
    data = Dataset("tea", {f"q{n}": f"q {n}" for n in range(9)}, {f"d{n}": Passage(f"d {n}") for n in range(9)},
                   {f"q{n}": {f"d{n}": 1} for n in range(9)})  # fmt: skip
    first = Written("first", {f"q{n}": ["d0", f"d{n}"] for n in range(9)}, ms=1.0)
    found = evaluate_systems(
        data, [first, Written("second", {f"q{n}": [f"d{n}"] for n in range(9)}, ms=2.0)], sweep=True
    )
    page = render(found)
    english, chinese = (" ".join(Shown(page, hidden).words) for hidden in ("zh-Hans", "en"))
    assert not re.search("[\u4e00-\u9fff]", english)
    assert "ms a query (logarithmic)" in english
    assert "每次查询毫秒（对数）" in chinese
    strange = set(re.findall("[A-Za-z]{4,}", chinese))
    names = {"first", "second", "nDCG", "Success", "Holm", "seed", "unjudged", "twin", "near", "duplicates"}
    assert strange <= names, strange - names


def test_the_language_is_the_locales_and_else_the_browsers(monkeypatch):
    found = evaluation()
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert 'id="chinese" checked' in render(found)
    assert scripts(render(found)) == []
    assert "系统" in found._repr_html_()
    monkeypatch.setenv("LC_ALL", "C.UTF-8")  # wins over LANG
    assert 'id="english" checked' in render(found)
    assert len(scripts(render(found))) == 1
    assert 'id="chinese" checked' in render(found, "zh")
    assert 'id="english" checked' in render(found, "en")
    assert chart(found, "en") != chart(found, "zh")


def test_the_best_system_is_the_first_row_and_the_first_line_says_what_to_take():
    found = evaluation()
    page = render(found)
    rows = re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>', page)
    assert rows[0].startswith("first + ")
    assert page.index(found.conclusion.sentence[:10]) < page.index("<table")
    assert found.conclusion.take == found.results[1].name
    assert '<tr class="take">' in page


def test_every_kind_of_fault_has_chinese_words():
    assert len(KINDS) > 18
    for name, kind in KINDS.items():
        assert re.search("[\u4e00-\u9fff]{3}", kind.chinese), name
        facts = [set(re.findall("{[a-z]+}", words)) - {"{what}"} for words in (kind.english, kind.chinese)]
        assert facts[0] == facts[1], name


def test_one_question_and_unmeasured_times_are_shown_as_such():
    data = Dataset("一", {"q": "问"}, {"d": Passage("答")}, {"q": {"d": 1}})
    found = evaluate_systems(data, [Written("only", {"q": ["d"]}), Written("also", {"q": ["d"]})])
    page = render(found)
    Tags(page)
    for text in (page, str(found), json.dumps(found.to_json()), found._repr_html_(), chart(found, "zh")):
        assert "nan" not in text.lower().replace("finance", "")
    assert "one question shows nothing" in found.comparisons[0].sentence
    assert "one question shows nothing" in found.conclusion.sentence
    assert "<rect" not in chart(found, "en")


def test_labels_of_the_chart_do_not_meet():
    """Seven systems of one quality and one time."""
    data = tea.dataset()
    ranks = {query: list(data.corpus) for query in data.queries}
    found = evaluate_systems(data, [Written(f"a-system-with-a-long-name-{n}", ranks, ms=3.0) for n in range(25)])
    places = [float(y) for y in re.findall(r'<text x="20" y="([0-9.]+)"', chart(found, "en"))]
    assert len(places) == 26
    assert min(b - a for a, b in pairwise(places)) >= 17


def test_picture_as_svg_and_png(tmp_path):
    found = evaluation()
    write_picture(found, tmp_path / "图.svg", "en")
    svg = (tmp_path / "图.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg xmlns=")
    assert "SYNTHETIC" in svg
    assert svg.count("<circle") == 2
    write_picture(found, tmp_path / "a.png")
    head = (tmp_path / "a.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1920, 1080)
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        write_picture(found, tmp_path / "a.gif")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "图.svg"]


def test_an_evaluation_is_short_as_repr_and_a_table_as_text():
    found = evaluation()
    for value in (found, found.dataset, *found.results, Run(found.results[0].rankings)):
        assert len(repr(value)) < 700, type(value)
    assert "best 'first + " in repr(found)
    text = str(found)
    assert text.startswith(found.conclusion.sentence)
    assert text.index("first + ") < text.index("\nfirst ")  # the best row first
    html = found._repr_html_()
    Tags(html)
    assert "<table" in html
    assert "<script" not in html


def test_a_kept_time_is_marked_as_one_of_an_earlier_run():
    found = evaluation()
    first = replace(found.results[0], costs=replace(found.results[0].costs, earlier=True))
    found = replace(found, results=(first, *found.results[1:]))
    assert "1.5*" in str(found)
    assert "* measured in an earlier run" in str(found)
    assert "1.5*" in render(found)


def browser_says(page, tmp_path, *flags):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium installed")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("browser", "shown"), [("zh-CN", "zh-Hans"), ("en-US", "en"), ("de", "en")])
def test_a_chinese_browser_shows_chinese(tmp_path, monkeypatch, browser, shown):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    write(evaluation(), tmp_path / "report.html")
    done = browser_says(tmp_path / "report.html", tmp_path, f"--accept-lang={browser}", f"--lang={browser}")
    assert f'<html lang="{shown}">' in done.stdout
    assert "CONSOLE" not in done.stderr


def test_a_browser_shows_it_without_errors_or_requests(tmp_path):
    found = evaluation()
    write(replace(found, faults=(*found.faults, Fault("cut", "system", 1, 2, ("x",), "m"))), tmp_path / "report.html")
    done = browser_says(tmp_path / "report.html", tmp_path, f"--log-net-log={tmp_path / 'net.json'}")
    assert "CONSOLE" not in done.stderr
    assert "<title>owned" not in done.stdout
    assert "zh-retrieval eval</title>" in done.stdout
    assert "127.0.0.1:9" not in json.dumps(requested(tmp_path / "net.json"))


def requested(path):
    """Return the addresses that Chromium asked the network for."""
    events = re.findall(r'"url":"([^"]+)"', path.read_text(encoding="utf-8"))
    return [url for url in events if url.startswith("http")]
