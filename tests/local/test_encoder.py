"""The encoder's public behaviour, on the built-in model."""

import asyncio
import logging
import random
import sys
import threading

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_xlmr_reranker
from tests.without_torch import torch
from zh_retrieval.local.call import Limits
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.sequence import Tokens

TEXTS = ["你好", "绿茶用八十度的水冲泡。", "", "Python 读取文件", "长" * 900, "a", "你好"]


def test_vectors_are_float32_of_length_one_in_input_order(encoder):
    vectors = encoder.encode_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[6], atol=1e-6)
    np.testing.assert_allclose(vectors[3], encoder.encode_documents(TEXTS[3:4])[0], atol=1e-5)


def test_the_builtin_model_equals_a_plain_float32_bert_with_mean_pooling(encoder):
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    from tests.tiny_models import BUILTIN
    from zh_retrieval.checkpoint.blocks import unpacked
    from zh_retrieval.checkpoint.tensors import read_tensors

    config = BertConfig.from_pretrained(BUILTIN)
    model = BertModel(config, add_pooling_layer=False)
    weights = unpacked(read_tensors([BUILTIN / "model.q4.safetensors"]))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
    ids = Tokenizer.from_file(str(BUILTIN / "tokenizer.json")).encode("query: 如何泡绿茶？").ids
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids])).last_hidden_state[0].mean(0)
    expected = torch.nn.functional.normalize(expected, dim=0).numpy()
    np.testing.assert_allclose(encoder.encode_queries(["如何泡绿茶？"])[0], expected, atol=1e-5)


def test_no_texts_give_an_empty_array(encoder):
    assert encoder.encode_queries([]).shape == (0, 384)
    assert encoder.encode_documents(()).shape == (0, 384)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (None, r"texts\[1\] is NoneType"),
        (3.5, r"texts\[1\] is float"),
        (b"bytes", r"texts\[1\] is bytes"),
        ("bad \ud800 text", r"texts\[1\] holds a lone surrogate '\\ud800' at character 4"),
    ],
)
def test_one_bad_text_is_named_by_its_index(encoder, poison, message):
    with pytest.raises(zr.InputError, match=message):
        encoder.encode_documents(["好", poison])
    with pytest.raises(zr.InputError, match=message):
        asyncio.run(encoder.aencode_queries(["好", poison]))


@pytest.mark.parametrize("texts", ["一个字符串", b"bytes", None, 3])
def test_what_is_no_list_of_texts_is_refused(encoder, texts):
    with pytest.raises(zr.InputError, match="expected a list of str"):
        encoder.encode_documents(texts)


def test_a_megabyte_of_text_is_cut_and_counted(encoder, caplog):
    with caplog.at_level(logging.WARNING, logger="zh_retrieval"):
        vector = encoder.encode_documents(["今天天气很好。" * 50_000])
    assert np.isfinite(vector).all()
    assert len(caplog.records) == 1
    assert "1 of 1 texts were cut to 512 tokens" in caplog.records[0].getMessage()


def test_many_slices_give_the_same_vectors_as_one(encoder):
    texts = [f"第{number}个句子" * (1 + number * 7 % 5) for number in range(44)]
    assert encoder._model.share()
    sliced = LocalEncoder(encoder._model, encoder.spec, encoder.max_length, "truncate", Limits(inputs=8))
    vectors = sliced.encode_documents(texts)  # five slices of eight and one of four
    np.testing.assert_allclose(vectors, encoder.encode_documents(texts), atol=1e-5)


def test_async_equals_sync(encoder):
    async def both():
        return await asyncio.gather(encoder.aencode_documents(TEXTS), encoder.aencode_queries(TEXTS))

    documents, queries = asyncio.run(both())
    np.testing.assert_allclose(documents, encoder.encode_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(queries, encoder.encode_queries(TEXTS), atol=1e-6)


@pytest.fixture
def quick_switches():
    """Let threads interrupt each other at every step, not every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_with_mixed_options_get_the_vectors_of_serial_calls(tmp_path, quick_switches):
    texts = [f"今天气很好{number}，我们去公园散步。" * (1 + number % 7) for number in range(25)]
    limits = (8, 16, 64, 512)  # one set of weights, cut at different lengths: shared tokenizer state would show
    options = {"path": tiny_bert(tmp_path), "device": "cpu", "dtype": "float32"}
    handles = [zr.load_encoder("bge-large-zh", max_length=limit, **options) for limit in limits]
    ways = [getattr(handle, name) for handle in handles for name in ("encode_queries", "encode_documents")]
    serial = {(way, n): ways[way]([text])[0] for way in range(len(ways)) for n, text in enumerate(texts)}
    wrong: list[tuple[int, int]] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            key = rng.randrange(len(ways)), rng.randrange(len(texts))
            if not np.allclose(ways[key[0]]([texts[key[1]]])[0], serial[key], atol=1e-5):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handle in handles:
        handle.close()
    assert wrong == []


@pytest.mark.parametrize("model", ["e5-small-zh", "bge-reranker-large", "rankinggpt-qwen-7b"])
def test_warmup_runs_every_kind_of_model(model, tmp_path):
    if model == "e5-small-zh":
        handle = zr.load_encoder(model, device="cpu")
    else:
        folder = tiny_xlmr_reranker(tmp_path) if model == "bge-reranker-large" else tiny_causal_lm(tmp_path)
        handle = zr.load_reranker(model, path=folder, device="cpu")
    with handle:
        handle.warmup()


def test_a_model_without_instruction_refuses_one(encoder):
    with pytest.raises(zr.ConfigError, match="takes no instruction"):
        encoder.encode_queries(["好"], instruction="为这个句子生成表示")


def test_equal_handles_share_weights_and_the_last_one_frees_them():
    first = zr.load_encoder("e5-small-zh", device="cpu", dtype="float32", max_batch_tokens=999)
    second = zr.load_encoder("builtin", device="cpu", dtype="float32", max_batch_tokens=999, max_length=64)
    other = zr.load_encoder("e5-small-zh", device="cpu", dtype="float32", max_batch_tokens=999, private=True)
    assert first._model is second._model
    assert first._model is not other._model
    assert (first.max_length, second.max_length) == (512, 64)
    first.close()
    first.close()
    assert second.encode_documents(["好"]).shape == (1, 384)
    with pytest.raises(zr.ClosedError):
        first.encode_documents(["好"])
    scheduler = second._model.scheduler
    del second
    with pytest.raises(zr.ClosedError):
        scheduler.submit([Tokens([0])])
    other.close()


def test_close_all_closes_open_handles():
    import subprocess

    code = """
import zh_retrieval as zr
encoder = zr.load_encoder("e5-small-zh", device="cpu")
zr.close_all()
try:
    encoder.encode_documents(["好"])
except zr.ClosedError:
    again = zr.load_encoder("e5-small-zh", device="cpu")
    print(again.encode_documents(["好"]).shape)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 384)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device='tpu' is unknown"),
        ({"device": "cuda:77"}, "not present"),
        ({"dtype": "float8"}, "dtype='float8' is unknown"),
        ({"quantization": "int3"}, "quantization='int3' is unknown"),
        ({"quantization": "int4"}, r"quantization='int4' is for the large decoders.* Use 'int8'"),
        ({"quantization": "int8", "quantization_config": {}}, "quantization"),
        ({"threads": 0}, "threads=0 must be a positive whole number"),
        ({"overflow": "window"}, "for rerankers"),
        ({"max_length": 0}, "positive whole number"),
        ({"max_length": 513}, "must be 3 to 512"),
        ({"compile": True}, "compile=True is for CUDA"),
        ({"max_batch_tokens": True}, "positive whole number"),
        ({"path": "/nowhere/at/all"}, "is not a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(zr.ConfigError, match=message):
        zr.load_encoder("e5-small-zh", **{"device": "cpu"} | options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError):
        zr.load_encoder("e5-small-zh", trust_remote_code=True)


def test_the_wrong_task_is_refused_with_the_right_function():
    with pytest.raises(zr.WrongTaskError, match="load_reranker"):
        zr.load_encoder("bge-reranker-large")
    with pytest.raises(zr.WrongTaskError, match="load_encoder"):
        zr.load_reranker("bge-base-zh")


def test_environment_variables_replace_defaults_only(monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_DTYPE", "float32")
    monkeypatch.setenv("ZH_RETRIEVAL_DEVICE", "cpu")
    with zr.load_encoder("e5-small-zh") as plain, zr.load_encoder("e5-small-zh", dtype="bfloat16") as explicit:
        assert plain.dtype == torch.float32
        assert explicit.dtype == torch.bfloat16


def test_global_torch_settings_are_left_alone():
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    with zr.load_encoder("e5-small-zh", device="cpu", dtype="bfloat16", private=True) as loaded:
        loaded.encode_documents(["好"])
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
