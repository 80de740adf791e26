"""The self-test passes for models that are right and fails for those that are not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import zh_retrieval as zr
from tests.checkpoint.test_foreign_code import HERE
from tests.golden import recipe
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import (
    BUILTIN,
    tiny_bert,
    tiny_causal_lm,
    tiny_gte,
    tiny_mistral,
    tiny_qwen1,
    tiny_xlmr_reranker,
)
from tests.weights.test_published import reason_to_skip
from zh_retrieval.cli.main import main
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.published import PUBLISHED
from zh_retrieval.selftest import Tolerance, _agreement, selftest

CPU = {"device": "cpu", "dtype": "float32"}


def failed(checks):
    return [check.name for check in checks if not check.passed]


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the built-in model, to be tampered with."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in BUILTIN.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_built_in_model_passes_every_check(dtype):
    checks = selftest("e5-small-zh", device="cpu", dtype=dtype)
    assert failed(checks) == []
    assert [check.name for check in checks] == [
        "vectors are finite and of length 1", "long text keeps its special tokens", "packed agrees with alone",
        "weights are as many as published", "questions find their answers", "published special tokens",
        "published ids of '你好'", "published ids of '绿茶'", "published vector of 'hello world'",
        "published vector of '绿茶用八十度的水冲泡。'", "published vector of '泡绿茶水温多少？'",
        "published cosine of '泡绿茶水温多少？', '绿茶用八十度的水冲泡。'",
        f"{dtype} agrees with {'float32' if dtype == 'bfloat16' else 'bfloat16'}",
    ]  # fmt: skip


def test_the_built_in_model_passes_in_int8():
    assert failed(selftest("e5-small-zh", device="cpu", quantization="int8")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "build"),
    [
        ("bge-base-zh", tiny_bert),
        ("bge-large-zh", tiny_bert),
        ("jina-base-zh", lambda folder: recipe.write(HERE / "jina", folder)),
        ("e5-mistral", tiny_mistral),
        ("rankinggpt", tiny_qwen1),
        ("rankinggpt", tiny_causal_lm),
        ("bge-reranker-large", tiny_xlmr_reranker),
        ("gte-multilingual-base", tiny_gte),
    ],
    ids=["bert", "bert-large", "jina", "mistral", "qwen-1", "llama", "xlm-roberta", "gte"],
)
def test_a_folder_of_the_user_is_compared_with_itself_only(model, build, tmp_path):
    checks = selftest(model, path=build(tmp_path / "model"), **CPU)
    assert failed(checks) == []
    assert 3 <= len(checks) <= 4
    assert not [check.name for check in checks if "published" in check.name]


def test_every_model_has_published_values():
    nothing_published = {
        "rankinggpt-bloom-560m", "rankinggpt-bloom-1b1", "rankinggpt-bloom-3b", "rankinggpt-bloom-7b",
        "rankinggpt-llama2-7b",
    }  # fmt: skip
    assert {spec.name for spec in MODELS} - set(PUBLISHED) == nothing_published
    assert not set(PUBLISHED) - {spec.name for spec in MODELS}


@pytest.mark.slow
def test_permuted_weights_fail(copy):
    file = copy / "model.q4.safetensors"
    weights = load_file(file)
    for end in ("q4", "scale"):
        first, second = (f"encoder.layer.{layer}.output.dense.weight.{end}" for layer in (2, 7))
        weights[first], weights[second] = weights[second], weights[first]
    save_file(weights, file)
    found = failed(selftest("e5-small-zh", path=copy, published=True, **CPU))
    assert [name for name in found if name.startswith("published vector")] == [
        f"published vector of {text!r}" for text in ("hello world", "绿茶用八十度的水冲泡。", "泡绿茶水温多少？")
    ]


@pytest.mark.slow
def test_wrong_pooling_fails():
    spec = replace(zr.get_spec("e5-small-zh"), pooling="cls")
    assert "published vector of 'hello world'" in failed(selftest(spec, **CPU))


@pytest.mark.slow
def test_a_wrong_prompt_fails():
    spec = replace(zr.get_spec("e5-small-zh"), query_template="{text}")
    assert failed(selftest(spec, **CPU)) == [
        "published vector of '泡绿茶水温多少？'", "published cosine of '泡绿茶水温多少？', '绿茶用八十度的水冲泡。'",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_tampered_vocabulary_fails(copy):
    stored = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary[28088][0], vocabulary[21000][0] = vocabulary[21000][0], vocabulary[28088][0]
    (copy / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    assert failed(selftest("e5-small-zh", path=copy, published=True, **CPU)) == ["published ids of '你好'"]


def test_another_model_in_place_of_the_published_one_fails(tmp_path):
    found = failed(selftest("bge-base-zh", path=tiny_bert(tmp_path / "bert"), published=True, **CPU))
    assert {
        "vectors are finite and of length 1", "weights are as many as published", "published special tokens",
    } <= set(found)  # fmt: skip


def test_results_that_do_not_agree_fail():
    numbers = Tolerance(batching=1e-5, angle=None, component=0, score=0, cosine=0)
    angles = replace(numbers, angle=1e-3)
    one = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    moved = one + np.array([[0, 2e-5], [0, 0]], dtype=np.float32)
    turned = np.array([[1.0, 0.0], [0.05, 0.99875]], dtype=np.float32)
    assert _agreement("same", one, one, numbers).passed
    assert not _agreement("moved", one, moved, numbers).passed
    assert _agreement("moved", one, moved, angles).passed
    assert not _agreement("turned", one, turned, angles).passed
    assert not _agreement("lacking", one, one[:1], numbers).passed


@pytest.mark.slow
def test_doctor_prints_one_line_for_each_check(capsys):
    assert main(["doctor", "--selftest", "e5-small-zh", "--device", "cpu", "--dtype", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert all(line.startswith("ok") for line in lines)


@pytest.fixture
def planted(tmp_path):
    """Return a cache in which another reranker lies where the published one would."""
    tiny_xlmr_reranker(tmp_path / "models" / "quietnight--bge-reranker-large" / "snapshots" / "master")
    return tmp_path


def test_doctor_fails_with_status_one_and_says_which_check(planted, capsys):
    arguments = ["doctor", "--selftest", "bge-reranker-large", "--cache-dir", str(planted), "--device", "cpu"]
    assert main([*arguments, "--json"]) == 1
    checks = {check["name"]: check["passed"] for check in json.loads(capsys.readouterr().out)}
    assert checks["packed agrees with alone"]
    assert not checks["weights are as many as published"]
    assert sum(name.startswith("published score") and not passed for name, passed in checks.items()) == 4


def test_a_snapshot_in_the_cache_is_tested_and_an_absent_one_skipped(planted, monkeypatch):
    monkeypatch.delenv("ZH_RETRIEVAL_TEST_DOWNLOAD", raising=False)
    monkeypatch.setenv("HF_HOME", str(planted / "hf"))
    assert reason_to_skip(zr.get_spec("bge-reranker-large"), planted) is None
    assert "absent here" in reason_to_skip(zr.get_spec("bge-base-zh"), planted)


def test_an_absent_model_is_not_downloaded_but_explained(tmp_path, monkeypatch, capsys):
    with serve(Stub({"AI-ModelScope/bge-base-zh-v1.5": {}})) as stub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        assert main(["doctor", "--selftest", "bge-base-zh", "--cache-dir", str(tmp_path)]) == 2
    assert "Run `zh-retrieval download bge-base-zh-v1.5`" in capsys.readouterr().err
    assert stub.requests == []


def test_a_model_is_downloaded_for_the_tests_when_that_is_allowed(tmp_path, monkeypatch):
    folder = tiny_xlmr_reranker(tmp_path / "made")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("ZH_RETRIEVAL_TEST_DOWNLOAD", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    spec = zr.get_spec("bge-reranker-large")
    assert reason_to_skip(spec, tmp_path) == "absent here, and no hub answers"
    with serve(Stub({spec.sources[0].id: files})) as stub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
        monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
        assert reason_to_skip(spec, tmp_path) is None
    assert "weights are as many as published" in failed(selftest(spec, cache_dir=tmp_path, **CPU))
