"""A cheap reranker over many passages and a dear one over few: what each step gives and costs."""

import json

import pytest

import zh_retrieval as zr
from tests.evaluation import tea
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.cli.main import main, parser
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.report.page import render
from zh_retrieval.evaluation.systems.bm25 import BM25
from zh_retrieval.evaluation.systems.building import build
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.search import order
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.testing import FakeReranker

CHEAP, DEAR = "bge-reranker-base", "bge-reranker-large"


class Last(FakeReranker):
    """Likes what the other one does not."""

    def score(self, pairs, **options):
        return -super().score(pairs, **options)


def evaluation(top_k=30):
    first = BM25()
    cheap = Reranked("bm25 + cheap", first, FakeReranker, {"model": "fake"}, Store(None), depth=12)
    dear = Reranked("bm25 + cheap + dear", cheap, Last, {"model": "last"}, Store(None), depth=4)
    alone = Reranked("bm25 + dear", first, Last, {"model": "last"}, Store(None), depth=12)
    return evaluate_systems(tea.dataset(), [first, cheap, dear, alone], top_k=top_k)


@pytest.fixture(scope="module")
def found():
    return evaluation()


def test_a_step_reorders_the_best_of_the_one_before_and_leaves_the_rest_in_its_order(found):
    data, model = tea.dataset(), Last()
    for query, text in data.queries.items():
        below, above = (found.results[place].rankings[query] for place in (1, 2))
        scores = model.score([(text, data.corpus[name].joined()) for name in below.ids[:4]]).tolist()
        assert above.ids == (*order(below.ids[:4], scores), *below.ids[4:])
        assert list(above.scores) == sorted(above.scores, reverse=True)


def test_every_step_is_beside_the_one_before_with_its_pairs_and_milliseconds(found):
    pairs = {result.name: result.costs.pairs_per_query for result in found.results}
    held = {result.name: [len(r.ids) for r in result.rankings.values()] for result in found.results}
    read = sum(min(12, count) for count in held["bm25"]) / 10
    assert pairs == {"bm25": None, "bm25 + cheap": read, "bm25 + cheap + dear": read + 4, "bm25 + dear": read}
    rows = {(c.system, c.baseline): c for c in found.comparisons}
    step, whole = rows["bm25 + cheap + dear", "bm25 + cheap"], rows["bm25 + cheap + dear", "bm25"]
    assert (step.extra_pairs, whole.extra_pairs) == (4, read + 4)
    assert step.sentence.startswith("dear on top of bm25 + cheap: ")
    assert whole.sentence.startswith("cheap + dear on top of bm25: ")
    assert "a query for 4 pairs" in step.sentence or "in the same time for 4 pairs" in step.sentence
    assert "读 4 对" in step.sentence_zh
    assert step.interval[0] <= step.difference <= step.interval[1]
    assert step.difference == pytest.approx(found.results[2].metrics[found.main] - found.results[1].metrics[found.main])
    alone = next(c for pair, c in rows.items() if set(pair) == {"bm25 + cheap + dear", "bm25 + dear"})
    assert alone.extra_pairs is None


def test_text_json_and_page_show_the_pairs(found):
    assert " pairs " in str(found).split("\n\n")[2].splitlines()[0]
    row = found.to_json()["results"][2]
    assert (row["base"], row["costs"]["pairs_per_query"]) == ("bm25 + cheap", found.results[2].costs.pairs_per_query)
    assert {"extra_pairs", "extra_ms", "interval"} <= set(found.to_json()["comparisons"][0])
    page = render(found, "en")
    assert "pairs" in page
    assert "dear on top of bm25 + cheap" in page
    assert " pairs" not in str(evaluate_systems(tea.dataset(), [BM25()]))


def built(*chains, depth=50):
    return [(s.name, s.base and s.base.name, s.scored) for s in build(
        ["bm25"], chains, {}, Store(None), depth=depth, bm25=False)]  # fmt: skip


def test_what_cascades_begin_with_is_one_system():
    other = f"{DEAR},overflow=window"
    systems = built((CHEAP, f"{DEAR},depth=20"), (CHEAP, f"{other},depth=20"), (DEAR,))
    assert [(base, depth) for _, base, depth in systems[1:]] == [
        ("bm25", 50), (f"bm25 + {CHEAP}", 20), (f"bm25 + {CHEAP}", 20), ("bm25", 50),
    ]  # fmt: skip
    assert systems[2][0] == f"bm25 + {CHEAP} + {DEAR} (depth=20)"


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ((CHEAP, DEAR), "does not say how many passages it reads: give bge-reranker-large,depth=N, with N below 50"),
        ((CHEAP, f"{DEAR},depth=50"), "reads 50 passages, and the step before it 50"),
        ((f"{CHEAP},depth=0",), "depth='0'|depth=0"),
        ((f"{CHEAP},depth=x",), "depth='x' must be"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(chain, message):
    with pytest.raises(zr.ConfigError, match=message):
        built(chain)


def test_then_goes_on_with_the_reranker_before_it(capsys):
    given = ["eval", "x", "--reranker", CHEAP, "--then", f"{DEAR},depth=20", "--reranker", DEAR]
    assert parser().parse_args(given).reranker == [(CHEAP, f"{DEAR},depth=20"), (DEAR,)]
    assert parser().parse_args(["eval", "x"]).reranker == []
    with pytest.raises(SystemExit):
        main(["eval", "x", "--then", DEAR, "--reranker", CHEAP])
    assert "give --reranker first" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_a_cascade(capsys, tmp_path):
    data = tea.write(tmp_path / "tea")
    (tmp_path / "weights").mkdir()
    weights = tiny_xlmr_reranker(tmp_path / "weights")
    arguments = ["eval", str(data), "--model", "bm25", "--cache", str(tmp_path / "c"), "--device", "cpu", "--json"]
    first = ["--reranker", f"{CHEAP}={weights},depth=8"]
    assert main([*arguments, *first, "--then", f"{DEAR}={weights},depth=3"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["costs"]["pairs_per_query"] for row in rows] == [None, 8, 11]
    assert [row["settings"].get("depth") for row in rows] == [None, 8, 3]
