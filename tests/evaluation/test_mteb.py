"""mteb runs our models on a task of our own data, and finds what `eval` finds."""

from dataclasses import replace

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.systems.dense import Dense
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.testing import FakeEncoder, FakeReranker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def untitled():
    """mteb and we join titles differently: without them both read the same."""
    data = tea.dataset()
    return replace(data, corpus={name: Passage(passage.text) for name, passage in data.corpus.items()})


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Tea(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Tea", dataset={"path": "local/tea", "revision": "1"}, description="Tea.", type="Retrieval",
            category="t2t", eval_splits=["test"], eval_langs=["cmn-Hans"], main_score="ndcg_at_10",
        )  # fmt: skip

        def load_data(self, *_, **__):
            data = untitled()
            corpus = [{"id": name, "title": "", "text": passage.text} for name, passage in data.corpus.items()]
            queries = [{"id": name, "text": text} for name, text in data.queries.items()]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": datasets.Dataset.from_list(corpus),
                        "queries": datasets.Dataset.from_list(queries),
                        "relevant_docs": {query: dict(grades) for query, grades in data.qrels.items()},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return Tea()


def score(task, model):
    import mteb

    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]["ndcg_at_10"]


def test_an_encoder_gets_of_mteb_what_it_gets_of_eval(task):
    from mteb.models.models_protocols import EncoderProtocol

    from zh_retrieval.evaluation.mteb import MtebEncoder

    model = MtebEncoder(FakeEncoder())
    assert isinstance(model, EncoderProtocol)
    ours = evaluate_systems(untitled(), [Dense("x", FakeEncoder, {}, Store(None))])
    assert 0.05 < ours.results[0].metrics["nDCG@10"] < 1
    assert score(task, model) == pytest.approx(ours.results[0].metrics["nDCG@10"], abs=1e-4)


def test_queries_and_documents_are_told_apart(encoder):
    pytest.importorskip("mteb")
    from mteb.types import PromptType

    from zh_retrieval.evaluation.mteb import MtebEncoder

    model = MtebEncoder(encoder)
    batches = [{"text": ["绿茶"]}, {"text": ["红茶", "米饭"]}]
    texts = ["绿茶", "红茶", "米饭"]
    asked = model.encode(batches, prompt_type=PromptType.query)
    assert (asked == encoder.encode_queries(texts)).all()
    assert (asked != encoder.encode_documents(texts)).any()
    for other in (PromptType.document, None):
        assert (model.encode(batches, prompt_type=other) == encoder.encode_documents(texts)).all()


def test_a_cross_encoder_scores_pairs_in_order():
    pytest.importorskip("mteb")
    from mteb.models.models_protocols import CrossEncoderProtocol

    from zh_retrieval.evaluation.mteb import MtebCrossEncoder

    reranker = FakeReranker()
    model = MtebCrossEncoder(reranker)
    assert isinstance(model, CrossEncoderProtocol)
    found = model.predict([{"text": ["绿茶", "红茶"]}], [{"text": ["绿茶水温"]}, {"text": ["米饭"]}])
    assert (found == reranker.score([("绿茶", "绿茶水温"), ("红茶", "米饭")])).all()


def test_a_reranking_task_gives_what_a_reranked_system_gives(task):
    from zh_retrieval.evaluation.mteb import MtebCrossEncoder

    data = untitled()
    everything = Written("all", {query: list(data.corpus) for query in data.queries})
    deep = Reranked("all + x", everything, FakeReranker, {}, Store(None), depth=len(data.corpus))
    ours = evaluate_systems(data, [everything, deep]).results[1]
    task.load_data()
    task.dataset["default"]["test"]["top_ranked"] = {query: list(data.corpus) for query in data.queries}
    assert score(task, MtebCrossEncoder(FakeReranker())) == pytest.approx(ours.metrics["nDCG@10"], abs=1e-4)
