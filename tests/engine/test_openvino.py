"""OpenVINO's graphs against transformers, and how the engine forms its passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests import golden
from tests.golden.recipe import write
from tests.memory import WATCH
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_gte, tiny_qwen3, tiny_xlmr, tiny_xlmr_reranker
from tests.without_torch import torch
from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import weight_files
from zh_retrieval.engine import hardware
from zh_retrieval.engine.openvino import encoders, ops, readouts
from zh_retrieval.engine.openvino import engine as engines
from zh_retrieval.engine.openvino.buckets import buckets, padded_count, padded_length
from zh_retrieval.engine.openvino.engine import OpenVinoEngine
from zh_retrieval.engine.openvino.inference import Settings
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.sequence import Tokens

KINDS = {
    "bert": ("bge-base-zh", tiny_bert),
    "xlm-r": ("bge-m3", tiny_xlmr),
    "jina": ("jina-base-zh", lambda folder: write(Path(golden.__file__).parent / "jina", folder)),
    "gte": ("gte-multilingual-base", tiny_gte),
    "qwen3": ("qwen3-embedding-0.6b", tiny_qwen3),
    "rank by class": ("bge-reranker-large", tiny_xlmr_reranker),
    "rank by likelihood": ("rankinggpt", tiny_causal_lm),
}
"""One model of every kind of graph and readout."""

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
        longest = max(padded_length(lengths[index]) for index in batch)
        padded = len(batch) * longest
        assert padded_count(len(batch)) * longest <= 2048 or len(batch) == 1
        little = padded - sum(lengths[index] for index in batch) <= 0.06 * padded
        assert little or len(batch) == 1 or {padded_length(lengths[index]) for index in batch} == {longest}


def test_batches_have_few_shapes_and_little_padding():
    assert all(0 <= padded_length(length) - length <= max(3, length / 16) for length in range(1, 9000))
    assert all(0 <= padded_count(count) - count <= count / 8 for count in range(1, 3000))
    shapes = {(padded_count(2048 // length), padded_length(length)) for length in range(1, 513)}
    shapes |= {(padded_count(count), padded_length(length)) for length in range(1, 513) for count in (1, 2, 3, 5, 7)}
    assert len(shapes) < 500  # of 2500 that are asked for


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_changes_no_number(tmp_path_factory, monkeypatch, kind, quantization):
    model, write = KINDS[kind]
    load = zr.load_reranker if "rank" in kind else zr.load_encoder
    folder = write(tmp_path_factory.mktemp("padding"))
    with load(model, path=folder, device="cpu", dtype="float32", quantization=quantization, private=True) as handle:
        targets = (5, 6) if handle.spec.scoring == "query-likelihood" else ()
        odd = [Tokens([7 + number % 40 for number in range(length)], targets=targets) for length in (5, 33, 67, 131)]
        batches = [[item] * count for item in odd for count in (1, 9)]
        found = [handle._model.engine.run(batch) for batch in batches]
        monkeypatch.setattr(engines, "padded_length", lambda length: length)
        monkeypatch.setattr(engines, "padded_count", lambda count: count)
        for rows, batch in zip(found, batches, strict=True):
            np.testing.assert_allclose(rows, handle._model.engine.run(batch), atol=1e-6)


def test_a_sequence_is_not_padded_beyond_the_models_positions(tmp_path):
    with zr.load_encoder("bge-m3", path=tiny_xlmr(tmp_path, positions=101), device="cpu", max_length=99) as encoder:
        assert encoder.encode_documents(["好" * 200]).shape == (1, 64)


MANY_SHAPES = """
import sys
import zh_retrieval as zr
from zh_retrieval.sequence import Tokens

options = {} if len(sys.argv) < 3 else {"path": sys.argv[2]}
encoder = zr.load_encoder(sys.argv[1], device="cpu", dtype="float32", **options)
engine = encoder._model.engine
for number in range(1001):
    if number == 100:
        before = used()
    length = 3 + number * 37 % 126  # and number % 8: as many shapes as batches, if none were rounded
    engine.run([Tokens([7] * length)] * (1 + number % 8))
print(used() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("model", ["bge-base-zh", "e5-small-zh"])
def test_many_shapes_need_little_memory(tmp_path, model):
    arguments = [model] if model == "e5-small-zh" else [model, str(tiny_bert(tmp_path))]
    command = [sys.executable, "-c", WATCH + MANY_SHAPES, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 80


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


LITTLE_MEMORY = """
import resource, sys
import numpy as np
import zh_retrieval as zr
from zh_retrieval.sequence import Tokens

options = {"threads": int(sys.argv[2]), "max_batch_tokens": 65536, "dtype": "float32"}
encoder = zr.load_encoder("bge-base-zh", path=sys.argv[1], device="cpu", **options)
submit = encoder._model.scheduler.submit
batch = [Tokens([5 + number % 40] * 500) for number in range(80)]
expected = np.concatenate([submit([Tokens([5 + number] * 500)]).result() for number in range(40)] * 2)
for megabytes in (1, 20, 40, 60, 4000):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, -1))
    try:
        rows = submit(batch).result()
    except zr.DeviceMemoryError:
        rows = None
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    wrong = rows is not None and (rows.shape != expected.shape or np.abs(rows - expected).max() > 1e-5)
    print(megabytes, "wrong" if wrong else "no memory" if rows is None else "right")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("threads", [1, 2])
def test_where_memory_runs_out_vectors_are_right_or_absent(tmp_path, threads):
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tiny_bert(tmp_path)), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "1 no memory"
    assert lines[-1] == "4000 right"
    assert not [line for line in lines if "wrong" in line]


def test_a_run_that_did_not_take_place_is_seen(folder, engine):
    """OpenVINO keeps the outputs of the run before where memory runs out, and says nothing."""
    tokens = [Tokens([7, 8, 9])]
    before = engine.run(tokens)

    class Silent:
        def __init__(self, request):
            self._request = request

        def __getattr__(self, name):
            return getattr(self._request, name)

        def start_async(self):
            pass

        def wait(self):
            pass

    working = engine._request
    engine._request = Silent(working)
    with pytest.raises(MemoryError, match="computed nothing"):
        engine._outputs(tokens, None)
    engine._request = working
    np.testing.assert_array_equal(engine.run(tokens), before)


@pytest.mark.parametrize("asked", [{"dtype": "auto"}, {"dtype": "bfloat16"}, {"quantization": "int8"}], ids=str)
def test_what_does_not_compute_here_is_float32_or_a_clear_error(folder, monkeypatch, caplog, asked):
    def failing(model, settings):
        if settings.bfloat16 or settings.group:
            raise RuntimeError("[CPU] MVN node with name 'MVN_60' bad combination")
        return compiled(model, settings)

    compiled = engines.compiled
    monkeypatch.setattr(engines, "compiled", failing)
    monkeypatch.setattr(hardware, "cpu_computes_bfloat16", lambda: True)
    options = {"path": folder, "device": "cpu", "private": True, **asked}
    if asked == {"dtype": "auto"}:
        with zr.load_encoder("bge-base-zh", **options) as encoder:
            assert encoder.dtype == "float32"
        assert "computes in float32: bfloat16 does not compute on this CPU" in caplog.text
        return
    with pytest.raises(zr.ConfigError, match=r"does not compute on this CPU \(.*bad combination\)\. Leave it out"):
        zr.load_encoder("bge-base-zh", **options)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_where_nothing_computes_the_error_asks_to_leave_out_nothing(folder, monkeypatch, bfloat16):
    def failing(model, settings):
        raise RuntimeError("[CPU] bad combination")

    monkeypatch.setattr(engines, "compiled", failing)
    monkeypatch.setattr(hardware, "cpu_computes_bfloat16", lambda: bfloat16)
    with pytest.raises(zr.ConfigError, match=r"^bge-base-zh\S* does not compute on this CPU \(.*bad combination\): if"):
        zr.load_encoder("bge-base-zh", path=folder, device="cpu", private=True)
