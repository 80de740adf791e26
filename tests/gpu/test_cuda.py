"""What only a GPU shows: the CUDA kernels against the CPU, graphs, memory that runs out, memory that is given back.

`make test-gpu` runs these alone; without a GPU they are skipped.
"""

import asyncio
import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests import golden
from tests.golden import recipe
from tests.parity.causal_configs import build
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_gte, tiny_mistral, tiny_qwen3, tiny_xlmr_reranker

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

TEXTS = [
    ("今天天气很好，我们去公园散步。" * 60)[:size] for size in (1, 2, 3, 7, 15, 16, 17, 33, 64, 65, 130, 300, 511, 700)
]
PAIRS = [(f"第{number}个问题是什么", text) for number, text in enumerate(TEXTS)]


def jina(folder: Path) -> Path:
    return recipe.write(Path(golden.__file__).parent / "jina", folder)


ENCODERS = {
    "bge": ("bge-base-zh", tiny_bert),
    "jina": ("jina-base-zh", jina),
    "gte": ("gte-multilingual-base", tiny_gte),
    "mistral": ("e5-mistral", tiny_mistral),
    "qwen3": ("qwen3-embedding-0.6b", tiny_qwen3),
}
RERANKERS = {
    "xlmr": ("bge-reranker-large", tiny_xlmr_reranker),
    "gte": ("gte-multilingual-reranker-base", lambda folder: tiny_gte(folder, head="pairs")),
    "llama": ("rankinggpt", tiny_causal_lm),
    "bloom": ("rankinggpt", lambda folder: tiny_causal_lm(folder, kind="bloom")),
    "yes-no": ("qwen3-reranker-0.6b", lambda folder: tiny_qwen3(folder, head=True)),
    "qwen2": ("rankinggpt", lambda folder: build("qwen2", folder)),
    "gemma2": ("rankinggpt", lambda folder: build("gemma2", folder)),
    "granite": ("rankinggpt", lambda folder: build("granite", folder)),
    "gpt_oss": ("rankinggpt", lambda folder: build("gpt_oss", folder)),
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder_case(request, tmp_path_factory):
    model, write = ENCODERS[request.param]
    folder = write(tmp_path_factory.mktemp(request.param))
    with zr.load_encoder(model, path=folder, device="cpu", dtype="float32") as encoder:
        return model, folder, encoder.encode_documents(TEXTS)


@pytest.fixture(scope="module", params=RERANKERS)
def reranker_case(request, tmp_path_factory):
    model, write = RERANKERS[request.param]
    folder = write(tmp_path_factory.mktemp(request.param))
    with zr.load_reranker(model, path=folder, device="cpu", dtype="float32") as reranker:
        return model, folder, reranker.score(PAIRS)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("bfloat16", 0.998), ("float16", 0.9999)])
def test_vectors_of_the_gpu_are_those_of_the_cpu(encoder_case, dtype, least):
    model, folder, expected = encoder_case
    with zr.load_encoder(model, path=folder, device="cuda", dtype=dtype) as encoder:
        batch = encoder.encode_documents(TEXTS)
        alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    assert (batch * expected).sum(-1).min() > least
    assert (alone * expected).sum(-1).min() > least
    if dtype == "float32":
        np.testing.assert_allclose(batch, expected, atol=2e-5)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.15)])
def test_scores_of_the_gpu_are_those_of_the_cpu(reranker_case, dtype, most):
    model, folder, expected = reranker_case
    with zr.load_reranker(model, path=folder, device="cuda", dtype=dtype) as reranker:
        scores = reranker.score(PAIRS)
        alone = np.concatenate([reranker.score([pair]) for pair in PAIRS])
    np.testing.assert_allclose(scores, expected, atol=most)
    np.testing.assert_allclose(alone, expected, atol=most)


def test_callers_of_many_kinds_get_their_own_results(tmp_path):
    folder = tiny_bert(tmp_path)
    with zr.load_encoder("bge-base-zh", path=folder, device="cuda", dtype="float32") as encoder:
        documents = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
        queries = np.concatenate([encoder.encode_queries([text]) for text in TEXTS])

        def bulk(turn):
            rows = [(turn * 7 + step) % len(TEXTS) for step in range(200)]
            np.testing.assert_allclose(
                encoder.encode_documents([TEXTS[row] for row in rows]), documents[rows], atol=2e-5
            )

        async def asked():
            rows = list(range(len(TEXTS))) * 8
            found = await asyncio.gather(*(encoder.aencode_queries([TEXTS[row]]) for row in rows))
            np.testing.assert_allclose(np.concatenate(found), queries[rows], atol=2e-5)

        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(bulk, turn) for turn in range(8)]
            asyncio.run(asked())
            for job in jobs:
                job.result()


@pytest.mark.parametrize("model", ENCODERS)
def test_short_queries_run_from_graphs(model, tmp_path, caplog):
    name, write = ENCODERS[model]
    with (
        caplog.at_level(logging.WARNING),
        zr.load_encoder(name, path=write(tmp_path), device="cuda", dtype="float32") as encoder,
    ):
        first = encoder.encode_documents(["今天"])
        for size in range(1, 120, 7):  # other texts, of all buckets, in the same memory
            encoder.encode_documents([TEXTS[-1][:size]])
        graphs = encoder._model.scheduler.batcher.engine._graphs
        assert set(graphs._recorded) == {16, 32, 64}
        np.testing.assert_allclose(encoder.encode_documents(["今天"]), first, atol=1e-6)
    assert "graphs are not used" not in caplog.text


def test_compiled_bodies_give_the_same(tmp_path):
    folder = tiny_bert(tmp_path)
    with zr.load_encoder("bge-base-zh", path=folder, device="cuda", dtype="float32") as plain:
        expected = plain.encode_documents(TEXTS)
    with zr.load_encoder("bge-base-zh", path=folder, device="cuda", dtype="float32", compile=True) as compiled:
        np.testing.assert_allclose(compiled.encode_documents(TEXTS), expected, atol=2e-5)
        np.testing.assert_allclose(compiled.encode_documents(TEXTS[:5]), expected[:5], atol=2e-5)


@contextmanager
def memory_left(size):
    """Let torch take no more than `size` bytes beyond what it holds now."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_runs_out_shrinks_batches_and_loses_nothing(tmp_path, caplog):
    folder = tiny_bert(tmp_path)
    options = {"path": folder, "device": "cuda", "dtype": "float32", "max_batch_tokens": 262144}
    texts = [f"{number}{TEXTS[-1][:500]}" for number in range(600)]
    with zr.load_encoder("bge-base-zh", **options) as encoder:
        expected = encoder.encode_documents(texts)
        with memory_left(64 * 2**20), caplog.at_level(logging.WARNING):
            found = encoder.encode_documents(texts)
        assert "ran out of memory" in caplog.text
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(encoder.encode_documents(texts[:3]), expected[:3], atol=2e-5)


def test_one_text_that_does_not_fit_is_a_typed_error_and_the_next_one_works(tmp_path):
    folder = jina(tmp_path)
    with zr.load_encoder("jina-base-zh", path=folder, device="cuda", dtype="float32") as encoder:
        expected = encoder.encode_documents(["今天"])
        with memory_left(0), pytest.raises(zr.DeviceMemoryError):
            encoder.encode_documents(["天气" * 3900])
        np.testing.assert_allclose(encoder.encode_documents(["今天"]), expected, atol=2e-5)


def test_closing_gives_the_memory_back(tmp_path):
    folder = tiny_bert(tmp_path)
    with zr.load_encoder("bge-base-zh", path=folder, device="cuda", dtype="float32") as encoder:
        encoder.encode_documents(TEXTS)  # libraries keep their workspaces from here on
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        with zr.load_encoder("bge-base-zh", path=folder, device="cuda", dtype="float32") as encoder:
            encoder.encode_queries(TEXTS[:4])
            encoder.encode_documents(TEXTS)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_a_jina_document_of_8192_tokens_needs_little_memory(tmp_path):
    with zr.load_encoder("jina-base-zh", path=jina(tmp_path), device="cuda", dtype="bfloat16") as encoder:
        encoder.encode_documents(["今天"])
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        encoder.encode_documents(["天气" * 4200])
        assert torch.cuda.max_memory_allocated() - before < 600 * 2**20
