"""The report: complete, in two languages, and harmless whatever the texts hold."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation import faults
from zh_retrieval.evaluation.dataset import Dataset, Fault, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.reading.collecting import MESSAGES
from zh_retrieval.evaluation.report import write, write_picture
from zh_retrieval.evaluation.report.language import FAULTS
from zh_retrieval.evaluation.report.page import render
from zh_retrieval.evaluation.report.plot import plot

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


def test_a_hostile_text_is_shown_and_does_nothing():
    page = render(evaluation())
    seen = Tags(page).seen
    tags = {tag for tag, _ in seen}
    assert not tags & {"script", "img", "iframe", "object", "link", "a", "form"}
    for _, attributes in seen:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    assert page.count("&lt;script&gt;") >= 5
    assert "default-src 'none'" in page
    page.encode("utf-8")
    assert "\x00" not in page


def test_everything_found_is_in_both_languages():
    found = evaluation()
    page = render(found)
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


def test_every_kind_of_fault_has_chinese_words():
    source = Path(faults.__file__).read_text(encoding="utf-8")
    kinds = {*MESSAGES, *re.findall(r'(?:fault|Fault)\(\s*"([a-z-]+)"', source)}
    assert len(kinds) > 18
    assert kinds <= set(FAULTS)


def test_one_question_and_unmeasured_times_make_a_page_without_a_plot():
    data = Dataset("一", {"q": "问"}, {"d": Passage("答")}, {"q": {"d": 1}})
    found = evaluate_systems(data, [Written("only", {"q": ["d"]})])
    page = render(found)
    Tags(page)
    assert "<svg" not in page
    assert "nan" not in page
    assert plot(found) == ""


def test_picture_as_svg_and_png(tmp_path):
    found = evaluation()
    write_picture(found, tmp_path / "图.svg")
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
    with pytest.raises(ConfigError, match="No system's time"):
        write_picture(evaluation(ms=(None, None)), tmp_path / "b.svg")


def test_a_browser_shows_it_without_errors_or_requests(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium installed")
    found = evaluation()
    write(replace(found, faults=(*found.faults, Fault("cut", "system", 1, 2, ("x",), "m"))), tmp_path / "report.html")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
            "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={tmp_path / 'net.json'}", (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert "<title>owned" not in done.stdout
    assert "zh-retrieval eval</title>" in done.stdout
    assert "127.0.0.1:9" not in json.dumps(requested(tmp_path / "net.json"))


def requested(path):
    """Return the addresses that Chromium asked the network for."""
    events = re.findall(r'"url":"([^"]+)"', path.read_text(encoding="utf-8"))
    return [url for url in events if url.startswith("http")]
