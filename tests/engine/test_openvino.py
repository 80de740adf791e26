"""OpenVINO's graphs against transformers, and how the engine forms its passes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_bert
from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import weight_files
from zh_retrieval.engine.openvino import encoders, ops, readouts
from zh_retrieval.engine.openvino.buckets import buckets
from zh_retrieval.engine.openvino.engine import OpenVinoEngine, Settings
from zh_retrieval.engine.openvino.weights import Weights
from zh_retrieval.sequence import Tokens

LENGTHS = (3, 17, 1, 200, 16, 512, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def engine(folder):
    sizes = encoders.Sizes.of(json.loads((folder / "config.json").read_text(encoding="utf-8")))

    def build():
        weights = Weights(read_tensors(weight_files(folder)), weight_files(folder), "bert.")
        hidden, inputs = encoders.body(sizes, weights, first=True)
        weights.check()
        return ops.model([hidden], inputs)

    settings = Settings(bfloat16=False, threads=1)
    return OpenVinoEngine(
        build, readouts.pooled("cls"), settings, dtype="float32", width=sizes.hidden, max_batch_tokens=2048
    )


@pytest.fixture(scope="module")
def sequences():
    generator = np.random.default_rng(0)
    return [Tokens(generator.integers(5, 60, length).tolist()) for length in LENGTHS]


def test_a_graph_computes_what_transformers_computes(folder, engine, sequences):
    from transformers import BertModel

    body = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = [body(torch.tensor([item.ids])).last_hidden_state[0, 0] for item in sequences]
    expected = torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    np.testing.assert_allclose(engine.launch(sequences).result(), expected, atol=2e-6)


def test_a_sequence_alone_gives_what_it_gives_among_others(engine, sequences):
    together = engine.launch(sequences).result()
    alone = np.concatenate([engine.launch([item]).result() for item in sequences])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("lengths", [[512] * 3 + [7] * 9, [3000, 10, 10], list(range(1, 300, 7)), [1]])
def test_buckets_hold_every_sequence_once_within_the_budget_and_with_little_padding(lengths):
    found = buckets(lengths, 2048)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 2048 or len(batch) == 1
        assert padded - sum(lengths[index] for index in batch) <= 0.06 * padded


def test_openvinos_counter_of_users_is_neither_loaded_nor_writes_into_the_home_folder(tmp_path):
    code = """
import sys
import zh_retrieval as zr
with zr.load_encoder("e5-small-zh", device="cpu") as encoder:
    encoder.encode_documents(["好"])
assert "openvino" in sys.modules
print("openvino_telemetry" in sys.modules)
import openvino
openvino.convert_model  # the application's own use of it goes on
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "False"
    assert list(tmp_path.iterdir()) == []
