"""Copies, pickles and dictionaries of the adapters: settings travel, weights do not; a copy has its own model."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
from tests.contract.demo_corpus import OPTIONS
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker

PAIRS = [("怎么泡茶？", "绿茶要用八十度的水冲泡"), ("怎么泡茶？", "猫喜欢睡觉")]
KINDS = {f"{package.__name__.split('_')[0]}-{name}": (package, name) for package, name in [
    (lc, "ModelScopeEmbeddings"), (lc, "BGEReranker"), (lc, "RankingGPTReranker"),
    (li, "ModelScopeEmbedding"), (li, "BGEReranker"), (li, "RankingGPTReranker"),
]}  # fmt: skip
LLAMA = [kind for kind in KINDS if kind.startswith("llama")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        "BGEReranker": tiny_xlmr_reranker(tmp_path_factory.mktemp("bge")),
        "RankingGPTReranker": tiny_causal_lm(tmp_path_factory.mktemp("gpt")),
    }


@pytest.fixture
def adapter(request, folders):
    package, name = KINDS[request.param]
    options = {"path": folders[name], "device": "cpu", "dtype": "float32", "top_n": 2} if name in folders else OPTIONS
    made = vars(package)[name](**options)
    yield made
    made.unload()


def results(made):
    core = made._load()
    return core.score(PAIRS).tolist() if hasattr(core, "score") else core.encode_queries(["茶"]).tolist()


def handle(made):
    return made._lazy._held


WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda made: pickle.loads(pickle.dumps(made))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_a_copy_has_the_settings_and_loads_for_itself(adapter, way):
    before = results(adapter)
    made = WAYS[way](adapter)
    assert handle(made) is None
    assert made.model_dump() == adapter.model_dump()
    assert made.load_options() == adapter.load_options()
    assert results(made) == before
    made.unload()
    assert handle(adapter) is not None
    assert results(adapter) == before


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_a_pickle_is_small(adapter):
    results(adapter)
    assert len(pickle.dumps(adapter)) < 4000


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_a_changed_copy_computes_by_its_own_options(adapter):
    results(adapter)
    made = adapter.model_copy(update={"max_length": 100})
    made._load()
    assert handle(made).max_length == 100
    assert handle(adapter).max_length == 512
    made.unload()


@pytest.mark.parametrize("adapter", LLAMA, indirect=True)
def test_dictionaries_and_json_make_an_equal_adapter(adapter):
    for stored in (adapter.to_dict(), json.loads(adapter.model_dump_json())):
        assert stored["class_name"] == type(adapter).__name__
        made = type(adapter).from_dict(stored)
        assert {**made.to_dict(), "path": str(made.path)} == {**adapter.to_dict(), "path": str(adapter.path)}
        assert "device" not in stored


@pytest.mark.parametrize("adapter", [kind for kind in KINDS if "Reranker" in kind], indirect=True)
def test_a_dump_of_a_reranker_makes_an_equal_one(adapter):
    stored = {name: value for name, value in adapter.model_dump().items() if name != "class_name"}
    made = type(adapter)(**stored, device="cpu")
    assert results(made) == results(adapter)
    made.unload()


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_an_option_that_is_set_later_takes_effect_at_the_next_call(adapter):
    results(adapter)
    adapter.max_length = 12
    assert adapter._load().max_length == 12


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_a_setting_that_is_refused_changes_nothing(adapter):
    results(adapter)
    held, before = handle(adapter), (adapter.model_dump(), adapter.load_options())
    for name, bad in [
        ("max_length", -3), ("max_length", True), ("device", "cuda:abc"), ("dtype", "float8"),
        ("model_name", "no-such-model"), ("max_batch_tokens", 0), ("when_full", "drop"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r".+"):
            setattr(adapter, name, bad)
    with pytest.raises(ValueError, match="no_such_field"):
        adapter.no_such_field = 1
    assert (adapter.model_dump(), adapter.load_options()) == before
    assert handle(adapter) is held


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_a_setting_that_does_not_concern_loading_keeps_the_weights(adapter):
    results(adapter)
    held = handle(adapter)
    adapter.show_progress = True
    adapter.max_length = adapter.max_length  # the same value
    if hasattr(adapter, "top_n"):
        adapter.top_n = np.int64(1)
        assert type(adapter.top_n) is int
    else:
        adapter.query_instruction = None
    assert handle(adapter) is held


@pytest.mark.slow
@pytest.mark.parametrize("adapter", KINDS, indirect=True)
@pytest.mark.parametrize("change", [lambda made: made.unload(), lambda made: setattr(made, "max_length", 12)])
def test_a_running_call_keeps_its_weights_to_the_end(adapter, change):
    running = adapter._load()
    change(adapter)
    assert handle(adapter) is None
    assert not running.closed
    running.warmup()
    assert adapter._load() is not running


async def test_unloading_in_async_code_forgets_the_weights():
    made = lc.ModelScopeEmbeddings(**OPTIONS)
    before = await made.aembed_query("茶")
    await made.aunload()
    assert handle(made) is None
    assert await made.aembed_query("茶") == before
    await made.aunload()


@pytest.mark.parametrize("adapter", KINDS, indirect=True)
def test_adapters_have_a_hash_that_equal_ones_share_and_changes_keep(adapter):
    twin, known = adapter.model_copy(), {adapter: "found"}
    assert hash(twin) == hash(adapter)
    adapter.max_length = 100
    assert known[adapter] == "found"


FREED = """
import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings
from llama_index_zh_retrieval import ModelScopeEmbedding

ours = {"embed_query": ModelScopeEmbeddings("e5-small-zh"), "get_query_embedding": ModelScopeEmbedding("e5-small-zh")}
for ask, made in ours.items():
    before = getattr(made, ask)("茶")
    zr.close_all()
    assert getattr(made, ask)("茶") == before
print("loaded again")
"""


@pytest.mark.slow
def test_a_model_that_was_freed_with_all_others_is_loaded_again():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert done.stdout == "loaded again\n"
