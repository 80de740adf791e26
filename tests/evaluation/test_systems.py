"""Models, BM25 and rerankers as systems: what they find, what they keep, what they cost."""

import time
from dataclasses import replace

import numpy as np
import pytest

import zh_retrieval as zr
from tests.evaluation.tea import THINGS, dataset
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.systems import dense
from zh_retrieval.evaluation.systems.arguments import ModelArgument
from zh_retrieval.evaluation.systems.base import Task
from zh_retrieval.evaluation.systems.bm25 import BM25
from zh_retrieval.evaluation.systems.building import build
from zh_retrieval.evaluation.systems.dense import Dense, Reading
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.search import order, search
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.sparse.terms import terms
from zh_retrieval.testing import FakeEncoder, FakeReranker


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(dense, "_BLOCK", 8)


class Opened:
    """Opens fakes and counts what they were asked."""

    def __init__(self, make):
        self.make, self.models = make, []

    def __call__(self):
        self.models.append(self.make())
        return self.models[-1]

    @property
    def asked(self):
        return sum(len(call) for model in self.models for call in model.calls)


def encoder_system(store, opened=None, **reading):
    return Dense("模型", opened or Opened(FakeEncoder), {"model": "fake"}, store, reading=Reading(**reading))


def test_rankings_are_those_of_the_vectors(small_blocks):
    data, model = dataset(), FakeEncoder()
    run = Task(data, 7).run(encoder_system(Store(None)))
    vectors = model.encode_documents([passage.joined() for passage in data.corpus.values()]).astype(np.float64)
    for query, text in data.queries.items():
        scores = (vectors * model.encode_queries([text])).sum(axis=1).astype(np.float32).tolist()
        assert list(run.rankings[query].ids) == order(list(data.corpus), scores)[:7]
    assert run.costs.index_bytes == 50 * 64 * 4
    assert run.costs.passages_per_second > 0
    assert run.costs.ms_per_query > 0


def test_what_is_kept_is_not_computed_again(small_blocks, tmp_path):
    data, first, second = dataset(), Opened(FakeEncoder), Opened(FakeEncoder)
    runs = [Task(data, 5).run(encoder_system(Store(tmp_path), opened)) for opened in (first, second)]
    assert runs[0].rankings == runs[1].rankings
    assert not runs[0].costs.earlier
    assert runs[1].costs == replace(runs[0].costs, earlier=True)  # those of the first time, and it is said
    assert second.models == []
    assert all(model.closed for model in first.models)


def test_times_of_other_conditions_are_measured_again_and_vectors_are_not(small_blocks, tmp_path):
    data, first, second = dataset(), Opened(FakeEncoder), Opened(FakeEncoder)
    before = Task(data, 5).run(Dense("模型", first, {}, Store(tmp_path), conditions="one thread"))
    after = Task(data, 5).run(Dense("模型", second, {}, Store(tmp_path), conditions="two threads"))
    assert after.rankings == before.rankings
    assert {text for call in second.models[0].calls for text in call} == set(data.queries.values())
    assert after.costs.passages_per_second is None  # nobody has measured that
    assert after.costs.memory_bytes is None
    assert not after.costs.earlier
    assert 0 < after.costs.ms_per_query != before.costs.ms_per_query
    again = Opened(FakeReranker)
    base = BM25()
    for conditions, opened in (("one thread", Opened(FakeReranker)), ("two threads", again)):
        system = Reranked("x", base, opened, {}, Store(tmp_path), depth=4, conditions=conditions)
        run = Task(data, 5).run(system)
    assert again.asked > 0
    assert not run.costs.earlier


def test_a_query_is_timed_alone_from_the_question_to_the_ranking(small_blocks, monkeypatch):
    searched = []

    def slow(queries, blocks, ids, top_k, *more):
        searched.append(len(queries))
        time.sleep(0.02 * (len(queries) == 1))
        return search(queries, blocks, ids, top_k, *more)

    monkeypatch.setattr(dense, "search", slow)
    run = Task(dataset(), 5).run(encoder_system(Store(None)))
    assert searched[0] == 10
    assert set(searched[1:]) == {1}
    assert run.costs.ms_per_query > 20


def test_a_time_over_part_of_the_vectors_is_scaled_up(small_blocks, monkeypatch):
    seen = []
    monkeypatch.setattr(dense, "_HELD", 1)
    monkeypatch.setattr(dense, "median_ms", lambda call, items: seen.append(call(items[0])) or 1.0)
    run = Task(dataset(), 5).run(encoder_system(Store(None)))
    assert run.costs.ms_per_query == 1 + 50 / 8  # encoding, and a search of 8 of 50 passages


def test_a_passage_more_costs_its_block_alone(small_blocks, tmp_path):
    data, again = dataset(), Opened(FakeEncoder)
    Task(data, 5).run(encoder_system(Store(tmp_path)))
    data.corpus["d-new"] = data.corpus["d0-0"]
    Task(data, 5).run(encoder_system(Store(tmp_path), again))
    documents = [text for model in again.models for call in model.calls for text in call if "\n" in text]
    assert len(documents) == 3  # 50 were there: six blocks of 8, and 2 + 1


def test_a_changed_passage_is_computed_again(small_blocks, tmp_path):
    data = dataset()
    Task(data, 5).run(encoder_system(Store(tmp_path)))
    data.corpus["d0-3"] = Passage("算盘几天检查一次？")  # in the middle of a block
    assert Task(data, 5).run(encoder_system(Store(tmp_path))).rankings["q9"].ids[0] == "d0-3"


def test_another_recipe_shares_nothing(small_blocks, tmp_path):
    data, other = dataset(), Opened(FakeEncoder)
    Task(data, 5).run(encoder_system(Store(tmp_path)))
    Task(data, 5).run(Dense("anders", other, {"model": "other"}, Store(tmp_path)))
    assert other.asked >= 50 + 10


def test_a_broken_file_is_computed_again(small_blocks, tmp_path):
    data = dataset()
    expected = Task(data, 5).run(encoder_system(Store(tmp_path)))
    for file in list(tmp_path.rglob("*.npz"))[:3]:
        file.write_bytes(file.read_bytes()[:100])
    assert Task(data, 5).run(encoder_system(Store(tmp_path))).rankings == expected.rankings


def test_title_and_instruction_change_what_the_model_reads():
    data, opened = dataset(), Opened(lambda: FakeEncoder(model="bge-base-zh"))
    Task(data, 5).run(encoder_system(Store(None), opened, title=False, instruction=""))
    seen = {text for call in opened.models[0].calls for text in call}
    assert not any("管理\n" in text for text in seen)


@pytest.mark.parametrize("late", [False, True])
def test_of_a_passage_in_chunks_the_best_chunk_counts(small_blocks, late):
    data, model = dataset(), FakeEncoder()
    run = Task(data, 50).run(encoder_system(Store(None), chunk=12, late=late))
    for query, text in data.queries.items():
        vector = model.encode_queries([text])[0].astype(np.float64)
        expected = {}
        for name, passage in data.corpus.items():
            if late:
                joined = passage.joined()
                vectors = model.encode_chunks(joined, sentence_spans(joined, 12))
            else:
                spans = sentence_spans(passage.text, 12)
                vectors = model.encode_documents([f"{passage.title}\n{passage.text[a:b]}" for a, b in spans])
            expected[name] = float(np.float32((vectors * vector).sum(axis=1).max()))
        assert run.rankings[query].by_id() == expected


def test_reranking_reorders_the_top_and_leaves_the_rest_below(tmp_path):
    data, opened = dataset(), Opened(FakeReranker)
    base = BM25()
    systems = [base, Reranked("bm25 + 重排", base, opened, {"model": "fake"}, Store(tmp_path), depth=4)]
    first, second = evaluate_systems(data, systems, top_k=20).results
    model = FakeReranker()
    for query, text in data.queries.items():
        below, above = first.rankings[query], second.rankings[query]
        scores = model.score([(text, data.corpus[name].joined()) for name in below.ids[:4]]).tolist()
        assert list(above.ids[:4]) == order(below.ids[:4], scores)
        assert above.ids[4:] == below.ids[4:]
        assert list(above.scores) == sorted(above.scores, reverse=True)
    again = Opened(FakeReranker)
    kept = Reranked("bm25 + 重排", base, again, {"model": "fake"}, Store(tmp_path), depth=4)
    assert Task(data, 20).run(kept).rankings == second.rankings
    assert again.models == []
    assert second.costs.ms_per_query > first.costs.ms_per_query


def test_the_first_stage_is_searched_once(tmp_path):
    data, opened = dataset(), Opened(FakeEncoder)
    base = Dense("模型", opened, {}, Store(None))
    above = [Reranked(f"模型 + {n}", base, FakeReranker, {"n": n}, Store(None)) for n in range(3)]
    evaluate_systems(data, [base, *above])
    assert len(opened.models) == 1


def test_bm25_is_the_formula():
    data = dataset()
    run = Task(data, 50).run(BM25(k1=1.2, b=0.75))
    documents = {name: terms(passage.joined()) for name, passage in data.corpus.items()}
    mean = sum(map(len, documents.values())) / len(documents)
    query = "q0"
    for name, score in run.rankings[query].by_id().items():
        expected = 0.0
        for term in terms(data.queries[query]):
            frequency = documents[name].count(term)
            holders = sum(term in found for found in documents.values())
            weight = np.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            expected += weight * frequency / (frequency + 1.2 * (0.25 + 0.75 * len(documents[name]) / mean))
        assert score == pytest.approx(expected, rel=1e-5)


def test_bm25_finds_nothing_where_no_term_is_shared():
    data = dataset()
    data.queries["q0"] = "xyz"
    run = Task(data, 5).run(BM25())
    assert run.rankings["q0"].ids == ()
    assert set(run.rankings["q1"].ids) == {f"d1-{p}" for p in range(5)}


def test_what_is_written_for_a_model_is_taken_apart():
    assert ModelArgument.parse("bge-base-zh=/a,b/c,quantization=int8,title=off") == ModelArgument(
        "bge-base-zh", {"path": "/a,b/c", "quantization": "int8", "title": "off"}
    )
    for wrong in ("", "=x", "bge="):
        with pytest.raises(zr.ConfigError, match="is no model"):
            ModelArgument.parse(wrong)


def built(models, rerankers=(), **flags):
    return build(models, [(reranker,) for reranker in rerankers], flags, Store(None), depth=5, bm25=True)


def test_every_reranker_goes_on_top_of_every_first_stage_and_names_tell_them_apart():
    names = [
        system.name
        for system in built(
            ["e5-small-zh", "e5-small-zh,title=off", "bge-base-zh=/a", "bge-base-zh=/b", "bm25,k1=0.9,name=B"],
            ["bge-reranker-large", "bge-reranker-large,overflow=window"],
        )
    ]
    first = ["e5-small-zh", "e5-small-zh (title=off)", "bge-base-zh-v1.5=/a", "bge-base-zh-v1.5=/b", "B"]
    second = ["bge-reranker-large", "bge-reranker-large (overflow=window)"]
    assert names == [*first, *(f"{base} + {top}" for base in first for top in second)]
    assert [system.name for system in built(["e5-small-zh"])] == ["bm25", "e5-small-zh"]


@pytest.mark.parametrize(
    ("models", "rerankers", "error", "message"),
    [
        (["bge-base"], [], zr.UnknownModelError, "Did you mean"),
        (["bge-reranker-large"], [], zr.WrongTaskError, "Give it with --reranker"),
        ([], ["e5-small-zh"], zr.WrongTaskError, "Give it with --model"),
        (["e5-small-zh,quantisation=int8"], [], zr.ConfigError, "has no setting 'quantisation'"),
        (["e5-small-zh,title=maybe"], [], zr.ConfigError, "Use on or off"),
        (["e5-small-zh,instruction=x"], [], zr.ConfigError, "takes no instruction"),
        (["e5-small-zh,chunk=-1"], [], zr.ConfigError, "chunk='-1' must be"),
        (["e5-small-zh,chunk=9,late_chunking=9"], [], zr.ConfigError, "not both"),
        (["e5-small-zh,max_length=x"], [], zr.ConfigError, "max_length='x' must be"),
        (["bm25,k1=a"], [], zr.ConfigError, "is no number"),
        (["bm25,b=2"], [], zr.ConfigError, "b between 0 and 1"),
        (["bm25,device=cpu"], [], zr.ConfigError, "bm25 has no setting 'device'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(models, rerankers, error, message):
    with pytest.raises(error, match=message):
        built(models, rerankers)


def test_two_systems_of_one_name_are_refused():
    with pytest.raises(zr.ConfigError, match="Two systems are called 'bm25'"):
        evaluate_systems(dataset(), [BM25(), BM25(k1=0.9)])


@pytest.mark.parametrize("depth", [0, -1, 2.5, True])
def test_a_depth_that_is_none_is_refused(depth):
    with pytest.raises(zr.ConfigError, match=r"depth=.* must be a positive whole number"):
        Reranked("x", BM25(), FakeReranker, {}, Store(None), depth=depth)
    with pytest.raises(zr.ConfigError, match=r"rerank depth=.* must be a positive whole number"):
        build(["bm25"], [], {}, Store(None), depth=depth, bm25=True)


def test_more_cannot_be_reranked_than_a_ranking_holds():
    base, opened = BM25(), Opened(FakeReranker)
    with pytest.raises(zr.ConfigError, match="x reranks 30 passages, and top_k=20 keeps 20"):
        evaluate_systems(dataset(), [base, Reranked("x", base, opened, {}, Store(None), depth=30)], top_k=20)
    assert opened.models == []


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(zr.ConfigError, match="seed="):
        evaluate_systems(dataset(), [BM25()], seed=seed)


def test_questions_without_a_right_answer_are_no_evaluation():
    data = dataset()
    data.qrels.clear()
    with pytest.raises(
        zr.InputError,
        match=r"No query of 茶与杂物 has a right answer: 10 queries \('q0', 'q1', 'q2'\), 0 judged \(none\)",
    ):
        evaluate_systems(data, [BM25()])


def test_the_sweep_says_what_a_reranker_of_any_depth_would_give():
    data, base = dataset(), BM25()
    deep = Reranked("bm25 + 重排", base, FakeReranker, {}, Store(None), depth=30)
    evaluation = evaluate_systems(data, [base, deep], top_k=30, sweep=True)
    for row in evaluation.sweep["rerank_depth"]:
        depth = row["rerank_depth"]
        above = Reranked("x", base, FakeReranker, {}, Store(None), depth=depth or 1)
        expected = evaluate_systems(data, [base, above], top_k=30).results[1] if depth else evaluation.results[0]
        assert row["nDCG@10"] == pytest.approx(expected.metrics["nDCG@10"])
    assert [row["rerank_depth"] for row in evaluation.sweep["rerank_depth"]] == [0, 5, 10, 20, 30]


def test_the_suggested_threshold_has_the_best_f1_there_is():
    data = dataset()
    evaluation = evaluate_systems(data, [encoder_system(Store(None))], sweep=True)
    (row,) = evaluation.sweep["score_threshold"]
    pairs = [
        (score, data.qrels[query].get(name, 0) > 0)
        for query, ranking in evaluation.results[0].rankings.items()
        for name, score in list(ranking.by_id().items())[:10]
    ]

    def f1(threshold):
        hits = sum(right for score, right in pairs if score >= threshold)
        return 2 * hits / (sum(score >= threshold for score, _ in pairs) + 50), hits

    best, hits = f1(row["score_threshold"])
    assert best == pytest.approx(max(f1(score)[0] for score, _ in pairs))
    kept = sum(score >= row["score_threshold"] for score, _ in pairs)
    assert (row["precision"], row["recall"]) == pytest.approx((hits / kept, hits / 50))
    assert row["kept_per_query"] == pytest.approx(kept / len(THINGS))


def test_the_sweep_tries_chunks_where_passages_are_long_enough():
    data = dataset()
    assert evaluate_systems(data, [encoder_system(Store(None))], sweep=True).sweep["chunk"] == []
    for name, passage in data.corpus.items():
        data.corpus[name] = type(passage)(passage.text * 10, passage.title)
    rows = evaluate_systems(data, [encoder_system(Store(None))], sweep=True).sweep["chunk"]
    assert [row["chunk"] for row in rows] == [128, 256, "whole"]
