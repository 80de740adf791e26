"""Results do not depend on what the application set as torch's defaults."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests import golden
from tests.golden.recipe import write
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_gte, tiny_mistral, tiny_xlmr_reranker
from zh_retrieval.layers.alibi import slope_tensor

TEXTS = ["我们要用这个方法", "不是", "今天气很好，我们去公园散步。" * 6, "他", "同工能下过子说产种面"]


def jina(folder):
    write(Path(golden.__file__).parent / "jina", folder)
    return folder


def compute(model, folder, options):
    slope_tensor.cache_clear()  # what a new process has
    options = {"path": folder, "device": "cpu", "private": True, **options}
    if zr.get_spec(model).task == "reranking":
        with zr.load_reranker(model, **options) as reranker:
            return reranker.score([(TEXTS[0], text) for text in TEXTS])
    with zr.load_encoder(model, **options) as encoder:
        return encoder.encode_documents(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("foreign", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("model", "build", "options"),
    [
        ("bge-base-zh", tiny_bert, {"dtype": "float32"}),
        ("bge-base-zh", tiny_bert, {"quantization": "int8"}),
        ("jina-base-zh", jina, {"dtype": "float32"}),
        ("jina-base-zh", jina, {"quantization": "int8"}),
        ("jina-base-zh", jina, {"dtype": "bfloat16"}),
        ("gte-multilingual-base", tiny_gte, {"dtype": "float32"}),
        ("e5-mistral", tiny_mistral, {"dtype": "float32"}),
        ("rankinggpt", tiny_causal_lm, {"dtype": "float32"}),
        ("bge-reranker-large", tiny_xlmr_reranker, {"dtype": "float32"}),
        ("bge-reranker-large", tiny_xlmr_reranker, {"dtype": "bfloat16"}),
    ],
    ids=[
        "bert",
        "bert-int8",
        "jina",
        "jina-int8",
        "jina-bfloat16",
        "gte",
        "mistral",
        "llama",
        "xlm-roberta",
        "xlm-r-bfloat16",
    ],
)
def test_results_do_not_depend_on_the_default_dtype(model, build, options, foreign, tmp_path):
    folder = build(tmp_path / "model")
    expected = compute(model, folder, options)
    found = []
    torch.set_default_dtype(foreign)  # for every thread
    try:
        thread = threading.Thread(target=lambda: found.append(compute(model, folder, options)))
        thread.start()
        thread.join()
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found[0], expected)
