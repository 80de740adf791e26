"""JinaBERT beyond the length up to which one graph computes it whole: the same vectors, in little memory."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests import golden
from tests.engines import ENGINES, load_by
from tests.golden.recipe import write
from tests.memory import WATCH
from zh_retrieval.engine.openvino.alibi import MOST

MODEL = "jina-embeddings-v2-base-zh"
TEXTS = ["天气" * 20, "今天天气很好，" * 300, "的", "公园" * (MOST // 2 + 1), "公园" * (MOST // 2 - 1), "散步" * 1500]


needs_both = pytest.mark.skipif(len(ENGINES) < 2, reason="compares two engines")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(Path(golden.__file__).parent / "jina", tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module")
def encoders(folder):
    options = {"path": folder, "device": "cpu", "dtype": "float32", "private": True}
    made = {engine: load_by(engine, zr.load_encoder, MODEL, **options) for engine in ENGINES}
    yield made
    for encoder in made.values():
        encoder.close()


@pytest.mark.slow
@needs_both
def test_vectors_of_long_texts_are_those_that_torch_computes(encoders):
    assert max(len(ids) for ids in encoders["graph"].tokenizer.ids(TEXTS)) > 2 * MOST
    found, expected = (encoders[engine].encode_documents(TEXTS) for engine in ENGINES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@needs_both
def test_chunks_of_a_long_text_are_those_that_torch_computes(encoders):
    spans = [(0, 700), (700, 1500), (1500, 3000)]
    found, expected = (encoders[engine].encode_chunks(TEXTS[-1], spans) for engine in ENGINES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_forked_child_makes_the_graphs_anew(encoders):
    expected = encoders["graph"].encode_documents(TEXTS[1:2])
    encoders["graph"]._model.engine.renew()
    np.testing.assert_allclose(encoders["graph"].encode_documents(TEXTS[1:2]), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_8192_tokens_need_less_than_600_mb(tmp_path):
    spec = zr.get_spec(MODEL)
    shape = {**spec.shape, "num_hidden_layers": 2}
    from zh_retrieval.bench import random_weights

    random_weights.write(dataclasses.replace(spec, name="mine", aliases=(), sources=(), shape=shape), tmp_path)
    code = f"""
import zh_retrieval as zr

encoder = zr.load_encoder({MODEL!r}, path={str(tmp_path)!r}, device="cpu", dtype="float32")
encoder.encode_documents(["天气" * 20])
before, peak = used(), [0]
watch(peak)
encoder.encode_documents(["天气" * 4100])
print(peak[0] - before)
"""
    result = subprocess.run([sys.executable, "-c", WATCH + code], capture_output=True, text=True, check=True)
    assert 50 < float(result.stdout) < 600
