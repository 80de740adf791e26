"""`zh-retrieval bench`: the figures are there, and what is compared is compared rightly."""

import argparse
import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import BUILTIN
from zh_retrieval.bench import peers, random_weights, sbert, workload
from zh_retrieval.bench.host import one_line
from zh_retrieval.bench.measures import widest_swap
from zh_retrieval.cli.commands import bench
from zh_retrieval.cli.main import main
from zh_retrieval.recipes import registry


def test_texts_have_the_promised_lengths_and_are_the_same_every_time():
    texts = workload.texts(200)
    assert texts == workload.texts(200)
    assert 15 <= min(map(len, texts)) < 40
    assert 250 < max(map(len, texts)) <= 500


def test_the_widest_swap_is_between_items_in_the_wrong_order():
    reference = np.array([3.0, 1.0, 2.0], dtype=np.float32)
    assert widest_swap(reference, reference * 2) == 0
    assert widest_swap(reference, np.array([3.0, 2.0, 1.0], dtype=np.float32)) == 1


@pytest.mark.parametrize("spec", zr.MODELS, ids=lambda spec: spec.name)
def test_the_shape_of_every_entry_gives_its_number_of_weights(spec):
    import torch

    with torch.device("meta"):
        model = random_weights.build(spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    if spec.architecture in ("bert", "xlm-roberta", "jina-bert") and spec.pooling and spec.sources[0].hub != "builtin":
        hidden = spec.shape["hidden_size"]
        count += hidden * (hidden + 1)  # the pooler is published, and not read
        count += spec.dimension * (hidden + 1) if spec.dense else 0
    if spec.architecture == "gte" and spec.pooling:
        count += spec.shape["hidden_size"] + 1  # the sparse side, which is no part of the body
    assert count == spec.parameters


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("qwen3-embedding-0.6b", {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}),
        ("qwen3-reranker-0.6b", {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}),
        ("rankinggpt-bloom-560m", {"n_layer": 1, "n_head": 4, "hidden_size": 64}),
        ("bge-m3", {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}),
        ("ritrieve_zh_v1", {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}),
        ("jina-base-zh", {"num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 64}),
    ],
)
def test_random_weights_of_an_entry_of_ones_own_load(tmp_path, name, sizes):
    base = zr.get_spec(name)
    shape = {**base.shape, "vocab_size": 23000, **sizes}
    spec = dataclasses.replace(base, name="mine", aliases=(), sources=(), shape=shape, parameters=None)
    random_weights.write(spec, tmp_path)
    load = zr.load_encoder if spec.task == "embedding" else zr.load_reranker
    with load(spec, path=tmp_path, device="cpu", dtype="float32") as model:
        rows = model.score([("天气", "今天天气很好")]) if spec.scoring else model.encode_documents(["今天天气很好"])
    assert np.isfinite(rows).all()
    assert random_weights.floating_operations(spec, [10, 20]) > 0


def test_a_shape_that_is_none_is_refused():
    spec = dataclasses.replace(zr.get_spec("rankinggpt"), shape={"model_type": "vit"})
    with pytest.raises(zr.ConfigError, match="describes no 'causal-lm' model"):
        random_weights.build(spec)


def test_random_weights_load_and_encode(tmp_path):
    spec = zr.get_spec("e5-small-zh")
    random_weights.write(spec, tmp_path)
    with zr.load_encoder(spec.name, path=tmp_path, device="cpu") as encoder:
        assert encoder.encode_documents(["今天天气很好"]).shape == (1, 384)
        assert encoder._model.tokenizer.ids(["天气"]) != [[3, 3]]


@pytest.mark.slow
def test_a_report_is_printed_written_and_drawn(tmp_path, capsys):
    output, plot = tmp_path / "report.json", tmp_path / "chart.svg"
    flags = "--model e5-small-zh --peers none --texts 4 --queries 10 --bulk 40 --rounds 1 --variants float32,int8"
    assert main(["bench", *flags.split(), "--output", str(output), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [row["side"] for row in report["throughput"]] == ["zh-retrieval float32", "zh-retrieval int8"]
    assert report["throughput"][1]["min_cosine"] > 0.98
    assert all(row["milliseconds"] > 0 for row in report["latency"])
    assert report["concurrency"]["gathered"]["min_cosine"] > 0.999
    assert "zh-retrieval int8" in printed
    assert len(ET.parse(plot).findall("{http://www.w3.org/2000/svg}rect")) == 1 + 2 + 2 + 2
    assert all(row["share_of_matrix_rate"] > 0 for row in report["throughput"] + report["throughput_even"])
    assert report["concurrency"]["behind_bulk"]["query_wait_s"] > 0


def test_even_texts_hardly_differ_in_length():
    assert {90, 135} >= {min(map(len, workload.even_texts(300))), max(map(len, workload.even_texts(300)))}


def test_a_peer_that_is_not_installed_is_one_line_and_others_are_measured(monkeypatch):
    missing = {name: [] for name in peers.PEERS} | {"sentence-transformers-openvino-qint8": ["nncf", "datasets"]}
    monkeypatch.setattr(peers, "missing", lambda: missing)
    arguments = argparse.Namespace(peers="all", peers_python=None)
    names, notes = bench._peers(arguments, zr.get_spec("bge-base-zh"), "cpu")
    assert "sentence-transformers-openvino" in names
    assert notes == ["sentence-transformers-openvino-qint8: not measured, needs nncf, datasets"]
    assert "sentence-transformers-flash" not in names
    assert "sentence-transformers-flash" in bench._peers(arguments, zr.get_spec("bge-base-zh"), "cuda")[0]


def test_what_failed_is_said_in_one_line():
    assert one_line("OSError: no such\n\n  file\n" + "at line 3\n" * 100).count("\n") == 0
    assert len(one_line("word " * 1000)) <= 200


def test_a_peer_keeps_the_batch_size_that_was_quickest(monkeypatch):
    class Model:
        device = "cpu"

        def encode(self, texts, batch_size, show_progress_bar):
            now[0] += {4: 3.0, 8: 1.0, 32: 2.0}[batch_size]
            return [[1.0]] * len(texts)

    now = [0.0]
    monkeypatch.setattr(sbert.time, "perf_counter", lambda: now[0])
    side = sbert.SentenceTransformers.__new__(sbert.SentenceTransformers)
    side._model, side._spec = Model(), zr.get_spec("bge-base-zh")
    assert side.tune(["好"]) == 8
    side.encode(["好"])
    assert now[0] == 3 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("machine", "features", "kind"),
    [
        ("x86_64", {"avx2"}, "avx2"),
        ("x86_64", {"avx2", "avx512"}, "avx512"),
        ("x86_64", {"avx2", "avx512", "avx512_vnni"}, "avx512_vnni"),
        ("aarch64", set(), "arm64"),
    ],
)
def test_the_onnx_peer_is_rounded_for_this_cpu(monkeypatch, machine, features, kind):
    names = ("avx2", "avx512", "avx512_vnni")
    monkeypatch.setattr(sbert.platform, "machine", lambda: machine)
    monkeypatch.setattr(sbert, "cpu_features", lambda: {name: name in features for name in names})
    assert sbert.onnx_kind() == kind


def test_peers_that_are_not_there_are_refused(capsys):
    assert main(["bench", "--model", "e5-small-zh", "--peers", "faiss"]) == 2
    assert "not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_an_entry_of_ones_own_is_measured_in_processes_that_do_not_know_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_registered", ())
    monkeypatch.setattr(registry, "_known", registry._known)
    base = zr.get_spec("e5-small-zh")
    zr.register_model(dataclasses.replace(base, name="mine", aliases=(), sources=(), parameters=None))
    flags = f"--model mine --path {BUILTIN} --peers none --texts 2 --queries 2 --bulk 4 --rounds 1 --variants float32"
    assert main(["bench", *flags.split()]) == 0
    printed = capsys.readouterr().out
    assert "mine, real weights" in printed
    assert "zh-retrieval float32" in printed
