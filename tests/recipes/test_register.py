"""Recipes of one's own: checked when they are written down, known under their names, and known in worker processes."""

import multiprocessing
import threading
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_qwen3
from zh_retrieval.cli.main import main
from zh_retrieval.models import ARCHITECTURES as READERS
from zh_retrieval.recipes import registry
from zh_retrieval.recipes.rules import ARCHITECTURES

EMBEDDER = {"task": "embedding", "architecture": "bert", "dimension": 64, "pooling": "cls"}
RERANKER = {"task": "reranking", "architecture": "xlm-roberta", "scoring": "classification"}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Let no test see what another registered."""
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._known)


@pytest.fixture
def mine():
    """Return a registered copy of a known recipe, made the way the documentation says."""
    spec = replace(zr.get_spec("bge-base-zh"), name="Mine", aliases=("my-alias",), sources=(), dimension=64)
    zr.register_model(spec)
    return spec


def test_five_fields_make_an_embedder_and_the_rest_is_the_architectures():
    spec = zr.ModelSpec(name="small", **EMBEDDER)
    assert (spec.prefix, spec.suffix, spec.separator) == (("[CLS]",), ("[SEP]",), ())
    assert (spec.max_length, spec.length_limit, spec.format_query("茶")) == (512, 512, "茶")
    reranker = zr.ModelSpec(name="judge", **RERANKER)
    assert reranker.separator == ("</s>", "</s>")
    assert replace(spec, prefix=()).prefix == ()
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"


def test_architectures_have_a_reader_for_every_use():
    uses = {name: {*body.scorings, *([None] if body.embeds else [])} for name, body in ARCHITECTURES.items()}
    assert {name: set(reader.plans) for name, reader in READERS.items()} == uses


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": " "}, "name is ' '"),
        ({"aliases": "abc"}, "aliases is 'abc', expected a tuple"),
        ({"task": "translation"}, "task is 'translation', expected one of 'embedding', 'reranking'"),
        ({"architecture": "gpt"}, "architecture is 'gpt', expected one of 'bert', 'xlm-roberta'"),
        ({"sources": ("BAAI/bge-m3",)}, "expected a tuple of Source"),
        ({"sources": (zr.Source("github", "a/b"),)}, "a hub is one of 'modelscope'"),
        ({"pooling": None}, "pooling is None, but an embedder needs one of 'cls', 'mean', 'last'"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"dimension": None}, "dimension is None"),
        ({"dimension": 0}, "dimension is 0, expected a positive whole number"),
        ({"dimension": 64.0}, r"dimension is 64\.0"),
        ({"parameters": -1}, "parameters is -1"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": True}, "max_length is True"),
        ({"max_length": 600, "length_limit": 512}, "max_length 600 is over length_limit 512"),
        ({"matryoshka": 128}, "matryoshka 128 is over dimension 64"),
        ({"query_template": "query"}, r"query_template is 'query', expected a text that holds \{text\} once"),
        ({"document_template": "{text}{text}"}, "document_template is"),
        ({"document_template": "{instruction}{text}"}, "which only a query has"),
        ({"query_template": "{instruction}{text}"}, "instruction, its default, is missing"),
        ({"instruction": "Find"}, "no place {instruction} for it"),
        ({"scoring": "classification"}, "an embedder has none"),
        ({"architecture": "causal-lm"}, "'causal-lm' gives no vectors; use one of 'bert'"),
        ({**RERANKER, "dimension": 3, "pooling": None}, "dimension is 3, but a reranker has none"),
    ],
)
def test_an_embedder_that_cannot_be_is_refused_with_the_reason(fields, said):
    with pytest.raises(zr.ConfigError, match=said):
        zr.ModelSpec(**{"name": "x", **EMBEDDER, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scoring": None}, "scoring is None, but a reranker needs one of 'classification', 'query-likelihood'"),
        (
            {"architecture": "jina-bert"},
            "'jina-bert' has no head for scoring 'classification'; use 'bert', 'xlm-roberta'",
        ),
        ({"scoring": "query-likelihood"}, "no head for scoring 'query-likelihood'; use 'causal-lm'"),
        ({"architecture": "causal-lm", "scoring": "yes-no"}, r"answers is \(\), but scoring 'yes-no' compares two"),
        ({"pooling": "cls"}, "pooling is 'cls', but a reranker has none"),
    ],
)
def test_a_reranker_that_cannot_be_is_refused_with_the_reason(fields, said):
    with pytest.raises(zr.ConfigError, match=said):
        zr.ModelSpec(**{"name": "x", **RERANKER, **fields})


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(zr.ConfigError, match=r"The entry of 'x' cannot be used: .*pooling.*; dimension.*; max_length"):
        zr.ModelSpec(name="x", task="embedding", architecture="bert", max_length=0)


def test_a_registered_name_is_one_like_any_other(mine, tmp_path, capsys):
    folder = tiny_bert(tmp_path)
    assert zr.get_spec("MINE") is mine is zr.get_spec("my-alias")
    assert zr.all_specs() == (*zr.MODELS, mine)
    assert mine not in zr.MODELS
    with (
        zr.load_encoder("mine", path=folder, device="cpu", dtype="float32") as ours,
        zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32") as base,
    ):
        np.testing.assert_array_equal(ours.encode_queries(["天气"]), base.encode_queries(["天气"]))
    assert main(["models"]) == 0
    assert "path= only" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Mine"))
    with pytest.raises(zr.UnknownModelError, match="Did you mean Mine"):
        zr.get_spec("my-alia")


def test_the_adapters_know_a_registered_name(mine, tmp_path):
    from langchain_zh_retrieval import ModelScopeEmbeddings
    from llama_index_zh_retrieval import ModelScopeEmbedding

    options = {"path": tiny_bert(tmp_path), "device": "cpu", "dtype": "float32"}
    chain, index = ModelScopeEmbeddings("mine", **options), ModelScopeEmbedding("my-alias", **options)
    assert chain.spec is index.spec is mine
    np.testing.assert_allclose(chain.embed_query("天气"), index.get_query_embedding("天气"), atol=1e-6)


def test_an_entry_without_sources_demands_a_path(mine):
    with pytest.raises(zr.ConfigError, match="The entry of Mine names no hub: give path="):
        zr.load_encoder("mine", device="cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "mine"},
        {"name": "other", "aliases": ("MY-ALIAS",)},
        {"name": "BGE-base-zh"},
        {"name": "other", "aliases": ("baai/BGE-m3",)},
        {"name": "twice", "aliases": ("Twice",)},
    ],
)
def test_a_name_that_is_taken_is_refused(mine, fields):
    before = zr.all_specs()
    with pytest.raises(zr.ConfigError, match="is taken by the model"):
        zr.register_model(replace(mine, **{"aliases": (), **fields}))
    assert zr.all_specs() == before


def test_a_second_recipe_of_the_same_weights_leaves_the_hub_id_where_it_is():
    base = zr.get_spec("bge-base-zh")
    zr.register_model(replace(base, name="mine", aliases=(), instruction="检索："))
    assert zr.get_spec(base.sources[0].id) is base
    assert zr.get_spec("mine").sources == base.sources


def test_only_a_spec_can_be_registered():
    with pytest.raises(zr.ConfigError, match="takes a ModelSpec, got str"):
        zr.register_model("mine")


def test_threads_register_each_name_once(mine):
    start, refused = threading.Barrier(8), []

    def register():
        start.wait()
        for number in range(20):
            try:
                zr.register_model(replace(mine, name=f"mine-{number}", aliases=()))
            except zr.ConfigError:
                refused.append(number)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7 * 20
    assert sorted(spec.name for spec in zr.all_specs()[len(zr.MODELS) + 1 :]) == sorted(f"mine-{n}" for n in range(20))


def test_two_specs_of_one_name_do_not_share_weights(tmp_path):
    folder = tiny_bert(tmp_path)
    first = zr.ModelSpec(name="same", **EMBEDDER)
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    with (
        zr.load_encoder(first, **options) as cls,
        zr.load_encoder(replace(first, pooling="mean"), **options) as mean,
    ):
        assert np.abs(cls.encode_documents(["天气很好"]) - mean.encode_documents(["天气很好"])).max() > 1e-3


def look_up(name, answers):
    """Run in another process: say what a name means there."""
    try:
        answers.put(zr.get_spec(name).instruction)
    except zr.UnknownModelError as error:
        answers.put(str(error))


def in_a_worker(name):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=look_up, args=(name, answers))
    worker.start()
    answer = answers.get(timeout=60)
    worker.join()
    return answer


@pytest.mark.slow
def test_a_worker_takes_the_recipe_itself_or_says_how_to_register(mine, tmp_path, monkeypatch):
    assert "known where zh_retrieval.register_model was called: in every process" in in_a_worker("mine")
    assert in_a_worker(replace(mine, instruction="检索：")) == "检索："
    (tmp_path / "my_models.py").write_text(
        "from dataclasses import replace\nimport zh_retrieval as zr\n"
        "zr.register_model(replace(zr.get_spec('bge-base-zh'), name='mine', aliases=(), instruction='找：'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv(registry.OWN_MODELS, "my_models")
    assert in_a_worker("mine") == "找："


def test_a_module_of_ones_own_is_imported_at_the_first_look_up(tmp_path, monkeypatch):
    (tmp_path / "my_own_models.py").write_text(
        "from dataclasses import replace\nimport zh_retrieval as zr\n"
        "zr.register_model(replace(zr.get_spec('bge-base-zh'), name='imported', aliases=(), sources=()))\n"
    )
    monkeypatch.setattr(registry, "_imported", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.OWN_MODELS, " my_own_models ,")
    assert zr.get_spec("imported").sources == ()
    assert zr.all_specs()[-1].name == "imported"


def test_a_module_that_is_not_there_is_a_config_error(monkeypatch):
    monkeypatch.setattr(registry, "_imported", False)
    monkeypatch.setenv(registry.OWN_MODELS, "no_such_module_here")
    with pytest.raises(zr.ConfigError, match="ZH_RETRIEVAL_MODELS names 'no_such_module_here', which cannot be"):
        zr.get_spec("bge-base-zh")


def test_a_language_model_answers_in_words_of_ones_own(tmp_path):
    folder = tiny_qwen3(tmp_path, head=True)
    base = zr.get_spec("qwen3-reranker-0.6b")
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    pairs = [("天气", "今天天气很好")]
    with (
        zr.load_reranker(replace(base, name="mine", answers=("no", "yes")), **options) as turned,
        zr.load_reranker(base, **options) as plain,
    ):
        np.testing.assert_allclose(turned.score(pairs), -plain.score(pairs), atol=1e-6)
    with pytest.raises(zr.CheckpointError, match="lacks 'Jawohl', which the recipe of mine needs"):
        zr.load_reranker(replace(base, name="mine", answers=("Jawohl", "no")), **options)
