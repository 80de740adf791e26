"""The reranker classes of both frameworks: one for every model, two for a family each; and recipes of one's own."""

import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_qwen3, tiny_xlmr_reranker
from zh_retrieval.ranking import FITTING
from zh_retrieval.recipes import registry

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXTS = ["今天天气很好，我们去公园散步。", "然后回家做饭。", "猫"]
QUERY = "天气怎么样"
FRAMEWORKS = (lc, li)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Let no test see what another registered."""
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._known)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("spec", [spec for spec in zr.MODELS if spec.task == "reranking"], ids=lambda spec: spec.name)
def test_each_class_takes_its_family_and_the_general_one_takes_all(framework, spec):
    assert framework.ModelScopeReranker(spec.name).spec is spec
    for cls, scoring in ((framework.BGEReranker, "classification"), (framework.RankingGPTReranker, "query-likelihood")):
        if spec.scoring == scoring:
            assert cls(spec.name).spec is spec
        else:
            fits = {"classification": "BGEReranker or ", "query-likelihood": "RankingGPTReranker or ", "yes-no": ""}
            said = f"{cls.__name__} is for models with scoring '{scoring}', but {spec.name} has '{spec.scoring}'"
            with pytest.raises(zr.ConfigError, match=rf"{said}\. Use {fits[spec.scoring]}ModelScopeReranker"):
                cls(spec.name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_embedder_is_refused_by_all(framework):
    for cls in (framework.ModelScopeReranker, framework.BGEReranker, framework.RankingGPTReranker):
        with pytest.raises(zr.WrongTaskError, match="does embedding, not reranking"):
            cls("bge-base-zh")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["bge-reranker-base", "rankinggpt", "qwen3-reranker-0.6b"])
def test_only_a_normalisation_that_fits_the_scores_is_taken(framework, name):
    fitting = FITTING[zr.get_spec(name).scoring]
    for normalize in ("none", "sigmoid", "exp"):
        if normalize in fitting:
            assert framework.ModelScopeReranker(name, normalize=normalize).normalize == normalize
        else:
            with pytest.raises(zr.ConfigError, match=f"normalize='{normalize}' does not fit the scores of"):
                framework.ModelScopeReranker(name, normalize=normalize)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_instruction_is_for_models_that_take_one(framework):
    assert framework.ModelScopeReranker("qwen3-reranker-0.6b", instruction="找").instruction == "找"
    with pytest.raises(zr.ConfigError, match="takes no instruction"):
        framework.BGEReranker(instruction="找")


@pytest.mark.parametrize(
    ("name", "make", "normalize"),
    [
        ("bge-reranker-base", tiny_xlmr_reranker, "sigmoid"),
        ("rankinggpt-llama2-7b", tiny_causal_lm, "exp"),
        ("qwen3-reranker-4b", lambda folder: tiny_qwen3(folder, head=True), "sigmoid"),
    ],
)
async def test_both_frameworks_give_the_scores_of_the_core(tmp_path, name, make, normalize):
    options = {"path": make(tmp_path), **OPTIONS}
    takes = zr.get_spec(name).takes_instruction
    instruction = "找出回答" if takes else None
    with zr.load_reranker(name, **options) as reranker:
        raw = reranker.score([(QUERY, text) for text in TEXTS], instruction=instruction).astype(float)
    expected = 1 / (1 + np.exp(-raw)) if normalize == "sigmoid" else np.exp(raw)
    order = sorted(range(len(TEXTS)), key=lambda index: -expected[index])
    settings = {"top_n": 2, "normalize": normalize, "instruction": instruction, **options}
    chain, engine = lc.ModelScopeReranker(name, **settings), li.ModelScopeReranker(name, **settings)
    documents = [Document(page_content=text) for text in TEXTS]
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    for found in (chain.compress_documents(documents, QUERY), await chain.acompress_documents(documents, QUERY)):
        assert [document.page_content for document in found] == [TEXTS[index] for index in order[:2]]
        scores = [document.metadata["relevance_score"] for document in found]
        np.testing.assert_allclose(scores, expected[order[:2]], atol=1e-5)
    for kept in (
        engine.postprocess_nodes(nodes, query_str=QUERY),
        await engine.apostprocess_nodes(nodes, query_str=QUERY),
    ):
        assert [node.node.text for node in kept] == [TEXTS[index] for index in order[:2]]
        np.testing.assert_allclose([node.score for node in kept], expected[order[:2]], atol=1e-5)
    assert type(engine).from_dict(engine.to_dict()).to_dict() == engine.to_dict()


def work(pickled, answers):
    """Run in another process: use adapters that came as bytes."""
    try:
        answers.put([adapter(QUERY) for adapter in map(using, pickle.loads(pickled))])
    except Exception as error:
        answers.put(repr(error))


def using(adapter):
    return adapter.embed_query if isinstance(adapter, lc.ModelScopeEmbeddings) else adapter.get_query_embedding


@pytest.mark.slow
def test_adapters_take_a_registered_recipe_along_to_worker_processes(tmp_path):
    spec = replace(zr.get_spec("bge-base-zh"), name="mine", aliases=(), sources=(), instruction="检索：")
    zr.register_model(spec)
    options = {"path": tiny_bert(tmp_path), **OPTIONS}
    adapters = [lc.ModelScopeEmbeddings("mine", **options), li.ModelScopeEmbedding("mine", **options)]
    expected = [using(adapter)(QUERY) for adapter in adapters]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=work, args=(pickle.dumps(adapters), answers))
    worker.start()
    found = answers.get(timeout=120)
    worker.join()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_pickle_whose_name_means_something_else_here_is_refused(monkeypatch):
    spec = replace(zr.get_spec("bge-base-zh"), name="mine", aliases=(), sources=())
    zr.register_model(spec)
    stored = [pickle.dumps(cls("mine")) for cls in (lc.ModelScopeEmbeddings, li.ModelScopeEmbedding)]
    assert [pickle.loads(pickled).spec for pickled in stored] == [spec, spec]
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._by_name(zr.MODELS))
    zr.register_model(replace(spec, instruction="另一个"))
    for pickled in stored:
        with pytest.raises(zr.ConfigError, match="The name 'mine' is taken by the model mine"):
            pickle.loads(pickled)
