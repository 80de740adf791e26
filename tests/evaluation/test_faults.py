"""Every fault is planted once and must be named, with its count and an example."""

import pytest

import zh_retrieval as zr
from tests.evaluation.fakes import Written
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.faults.duplicates import twins
from zh_retrieval.evaluation.systems.dense import Dense
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.testing import FakeEncoder, FakeReranker

TEXT = "绿茶没有经过发酵，叶片娇嫩，用刚烧开的水直接冲会把茶叶烫熟，汤色发黄、味道苦涩，一般把水放到八十度左右再倒。"
OTHER = "红茶是全发酵茶，需要用九十五度以上的沸水才能把香气充分激发出来，先用热水烫壶温杯，投茶后快速洗一遍。"


def evaluated(queries, corpus, qrels, rankings=None):
    passages = {name: Passage(text) for name, text in corpus.items()}
    found = rankings or {query: list(corpus) for query in queries}
    return evaluate_systems(Dataset("小例", queries, passages, qrels), [Written("手写", found)])


def kinds(faults):
    return {fault.kind: (fault.count, fault.total, fault.examples) for fault in faults}


def test_clean_data_have_no_fault():
    evaluation = evaluated({"q": "问"}, {"a": TEXT, "b": OTHER}, {"q": {"a": 1, "b": 0}})
    assert evaluation.faults == evaluation.results[0].faults == ()


@pytest.mark.parametrize(
    ("kind", "expected", "queries", "corpus", "qrels"),
    [
        ("unknown-query", (1, 2, ("x",)), {}, {}, {"x": {"a": 1}}),
        ("unknown-passage", (1, 2, ("q: nowhere",)), {}, {}, {"q": {"a": 1, "nowhere": 1}}),
        ("query-without-judgement", (1, 2, ("q2",)), {"q2": "又问"}, {}, {}),
        ("query-without-answer", (1, 2, ("q2",)), {"q2": "又问"}, {}, {"q2": {"a": 0}}),
        ("equal-ids", (1, 2, ("a",)), {"a": "又问"}, {}, {"a": {"b": 1}}),
        ("empty-query", (1, 2, ("q2",)), {"q2": " \n"}, {}, {"q2": {"b": 1}}),
        ("empty-passage", (1, 3, ("c",)), {}, {"c": "\t"}, {}),
        ("duplicate-query", (1, 2, ("q2 = q",)), {"q2": "问"}, {}, {"q2": {"b": 1}}),
        ("duplicate-passage", (1, 3, ("c = b",)), {}, {"c": OTHER}, {}),
        ("other-script", (1, 3, ("c",)), {}, {"c": "綠茶與紅茶都要沖泡，這是常識。"}, {}),
        ("near-duplicates", (1, 1, ("q: c holds a",)), {}, {"c": TEXT + "水太烫不好。"}, {}),
    ],
)
def test_a_planted_fault_of_the_data_is_named(kind, expected, queries, corpus, qrels):
    evaluation = evaluated({"q": "问", **queries}, {"a": TEXT, "b": OTHER, **corpus}, {"q": {"a": 1}, **qrels})
    assert kinds(evaluation.faults) == {kind: expected}


def test_passages_without_questions_of_a_script_are_of_no_other_one():
    traditional = "綠茶與紅茶都要沖泡，這是常識。"
    assert not kinds(evaluated({"q": "tea?"}, {"a": TEXT, "b": traditional}, {"q": {"a": 1, "b": 0}}).faults)
    found = evaluated({"q": "綠茶怎麼沖泡？"}, {"a": TEXT, "b": traditional}, {"q": {"b": 1, "a": 0}}).faults
    assert kinds(found) == {"other-script": (1, 2, ("a",))}


def test_queries_that_do_not_count_are_in_no_mean():
    rankings = {"q": ["a"], "q2": ["b"], "q3": ["b"]}
    evaluation = evaluated(
        {"q": "问", "q2": "又问", "q3": "再问"}, {"a": TEXT, "b": OTHER}, {"q": {"a": 1}, "q3": {"b": 0}}, rankings
    )
    assert evaluation.results[0].metrics["nDCG@10"] == 1
    assert set(evaluation.results[0].rankings) == {"q"}


def test_planted_faults_of_a_ranking_are_named():
    queries = {"q": "问", "q2": "又问", "q3": "再问"}
    corpus = {"a": TEXT, "b": OTHER, "twin": TEXT.replace("，", ",")}
    qrels = {"q": {"a": 1}, "q2": {"b": 1}, "q3": {"b": 1}}
    rankings = {"q": ["twin", "a"], "q2": ["b", "a"], "q3": []}
    found = kinds(evaluated(queries, corpus, qrels, rankings).results[0].faults)
    assert found == {
        "unjudged-top": (2, 4, ("q: twin", "q2: a")),
        "nothing-found": (1, 3, ("q3",)),
        "twin-above": (1, 3, ("q: twin",)),
    }


def test_passages_and_pairs_that_are_cut_are_counted_with_how_much(encoder):
    dataset = Dataset(
        "小例",
        {"q": "绿茶"},
        {"a": Passage("长" * 700), "b": Passage(OTHER), "c": Passage("长" * 600)},
        {"q": {"b": 1}},
    )
    base = Dense("模型", lambda: _Shared(encoder), {}, Store(None))
    reranked = Reranked("模型 + 重排", base, _Counting, {}, Store(None), depth=2)
    cut, pairs = (
        next(fault for fault in result.faults if fault.kind == "cut")
        for result in evaluate_systems(dataset, [base, reranked]).results
    )
    tokens = encoder.token_counts(["长" * 700, "长" * 600])
    assert encoder.max_length == 512 < min(tokens)
    assert (cut.count, cut.total) == (2, 3)
    assert cut.examples == (f"a ({tokens[0]} tokens)", f"c ({tokens[1]} tokens)")
    assert f"the longest {tokens[0] - 512}" in cut.message
    assert (pairs.count, pairs.total) == (1, 2)
    assert pairs.message.startswith("pairs are longer than the 512 tokens")


class _Shared(FakeEncoder):
    """The vectors of the fake, the tokens of the real one."""

    def __init__(self, encoder):
        super().__init__()
        self.token_counts = encoder.token_counts


class _Counting(FakeReranker):
    def token_counts(self, pairs):
        return [len(query) + len(document) for query, document in pairs]


def test_twins_are_what_holds_a_right_passage_and_nothing_else():
    corpus = {
        "right": TEXT,
        "equal": TEXT.replace("，", ", ").replace("。", "!"),
        "longer": "前言。" + TEXT + OTHER,
        "mostly": TEXT[:-6],
        "half": TEXT[: len(TEXT) // 2],
        "judged": TEXT + "以上。",
        "other": OTHER,
        "short": "绿茶",
    }
    passages = {name: Passage(text) for name, text in corpus.items()}
    dataset = Dataset("小例", {"q": "问"}, passages, {"q": {"right": 1, "judged": 1, "longer": 0}})
    assert set(twins(dataset)["q"]) == {"equal", "longer", "mostly"}


ANSWER = "{}支持无线充电，充满一次大约需要两小时，充电时请取下保护壳，并使用随机附带的充电底座，不要边充边用。"


@pytest.mark.parametrize(
    ("right", "other"),
    [("星河X1", "星河X2"), ("星河手机", "天山平板"), ("X-1", "X1"), ("C++版", "C版"), ("1.5寸屏", "15寸屏")],
)
def test_answers_that_differ_in_a_name_are_not_called_the_same_text(right, other):
    corpus = {"a": ANSWER.format(right), "b": ANSWER.format(other)}
    evaluation = evaluated({"q": f"{right}充满电要多久？"}, corpus, {"q": {"a": 1}}, {"q": ["b", "a"]})
    assert "twin-above" not in kinds(evaluation.results[0].faults)
    (near,) = evaluation.faults
    assert near.kind == "near-duplicates"
    assert "b differs from a: " in near.examples[0]
    assert "judge it right or wrong" in near.message
    assert "remove" not in near.message
    looked_at = evaluated({"q": f"{right}充满电要多久？"}, corpus, {"q": {"a": 1, "b": 0}}, {"q": ["b", "a"]})
    assert looked_at.faults == ()


def test_the_same_text_above_the_right_one_is_called_that():
    corpus = {"a": ANSWER.format("星河X1"), "b": "说明：" + ANSWER.format("星河 Ｘ１").replace("，", ", ")}
    evaluation = evaluated({"q": "充满电要多久？"}, corpus, {"q": {"a": 1}}, {"q": ["b", "a"]})
    assert kinds(evaluation.results[0].faults)["twin-above"] == (1, 1, ("q: b",))
    assert kinds(evaluation.faults)["near-duplicates"][2] == ("q: b holds a",)


def test_boilerplate_makes_no_twins():
    head = "根据公司管理制度第三章第五条的有关规定，现将具体办法通知如下，请各部门遵照执行："
    corpus = {
        f"d{n}": Passage(f"{head}第{n}号文件，{chr(0x4E00 + 37 * n) * 3}{chr(0x5E00 + 41 * n) * 25}") for n in range(60)
    }
    dataset = Dataset("小例", {f"q{n}": "问" for n in range(60)}, corpus, {f"q{n}": {f"d{n}": 1} for n in range(60)})
    assert twins(dataset) == {}


def test_rerankers_count_the_tokens_of_whole_pairs(tmp_path):
    tiny_xlmr_reranker(tmp_path)
    options = {"path": tmp_path, "device": "cpu", "dtype": "float32", "max_length": 16}
    with zr.load_reranker("bge-reranker-large", **options) as reranker:
        counts = reranker.token_counts([("绿茶", "水"), ("绿茶", OTHER), ("绿茶", "水")])
        short, long = counts[:2]
        assert counts[2] == short <= 16 < long
        with pytest.raises(zr.InputError, match=f"has {long} tokens, expected at most 16"):
            zr.load_reranker("bge-reranker-large", **options, overflow="error").score([("绿茶", OTHER)])
