"""JinaBERT against an independent float64 forward (expected.json), on a checkpoint rebuilt from its recipe."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.golden.recipe import write
from tests.memory import WATCH
from tests.without_torch import torch
from zh_retrieval.layers.slopes import slopes
from zh_retrieval.sequence import Tokens

CASE = Path(__file__).parent / "jina"
CASES = json.loads((CASE / "expected.json").read_text(encoding="utf-8"))["cases"]
MODEL = "jina-embeddings-v2-base-zh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(CASE, tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module", params=ENGINES)
def encoder(folder, request):
    with load_by(request.param, zr.load_encoder, MODEL, path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


def test_vectors_alone_equal_the_reference(encoder):
    for case in CASES:
        vector = encoder.encode_documents([case["text"]])[0]
        np.testing.assert_allclose(vector, case["mean_normalized"], atol=5e-5)


def test_vectors_packed_equal_the_reference(encoder):
    vectors = encoder.encode_documents([case["text"] for case in CASES])
    np.testing.assert_allclose(vectors, [case["mean_normalized"] for case in CASES], atol=5e-5)


def test_first_and_last_rows_equal_the_reference(folder):
    from zh_retrieval.layers.packing import pack

    batch = pack([Tokens(case["input_ids"]) for case in CASES], torch.device("cpu"))
    with load_by("torch", zr.load_encoder, MODEL, path=folder, device="cpu", dtype="float32", private=True) as loaded:
        body = loaded._model.engine._body
        with torch.inference_mode():
            hidden = body(input_ids=batch.input_ids, packed=batch.layout)[0][0].numpy()
    for case, start, length in zip(CASES, batch.layout.starts, batch.layout.lengths, strict=True):
        np.testing.assert_allclose(hidden[start], case["first_token"], atol=5e-5)
        np.testing.assert_allclose(hidden[start + length - 1], case["last_token"], atol=5e-5)


def test_ids_carry_both_special_tokens(encoder):
    tokenizer = encoder._model.tokenizer
    for case in CASES:
        assert tokenizer.frame(tokenizer.ids([case["text"]])[0], 8192) == case["input_ids"]


def test_slopes_of_head_counts():
    assert slopes(8) == [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8]
    assert slopes(12) == pytest.approx([*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert slopes(16)[:2] == pytest.approx([2**-0.5, 2**-1.0])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("lengths", [(130, 7, 1), (1,), (128, 128), (300, 60, 60, 5), (127, 2, 127)])
def test_flex_path_equals_blockwise_path(lengths):
    from torch.nn.attention.flex_attention import flex_attention

    from zh_retrieval.layers.alibi import alibi_attention, attend_flex, document_blocks
    from zh_retrieval.layers.packing import pack

    generator = torch.Generator().manual_seed(0)
    layout = pack([Tokens([1] * n) for n in lengths], torch.device("cpu")).layout
    q, k, v = (torch.randn(sum(lengths), 12, 16, generator=generator) for _ in range(3))
    slope = torch.tensor(slopes(12))
    expected = alibi_attention(q, k, v, layout)
    blocks = document_blocks(lengths, torch.device("cpu"))
    torch.testing.assert_close(attend_flex(q, k, v, blocks, slope, flex_attention), expected, atol=2e-6, rtol=0)


def test_flex_skips_blocks_of_other_sequences():
    from zh_retrieval.layers.alibi import document_blocks

    blocks = document_blocks((256, 200, 56), torch.device("cpu"))
    assert blocks.kv_num_blocks.tolist() == [[[2, 2, 2, 2]]]
    assert [row[:2] for row in blocks.kv_indices[0, 0].tolist()] == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.slow
def test_8192_tokens_need_little_memory():
    pytest.importorskip("torch")
    code = """
import torch
from zh_retrieval.sequence import Tokens
from zh_retrieval.layers.packing import pack
from zh_retrieval.models.jina_bert import JinaBertModel, jina_config

sizes = dict(vocab_size=100, hidden_size=768, num_hidden_layers=2, num_attention_heads=12, intermediate_size=3072)
model = JinaBertModel(jina_config(sizes | dict(position_embedding_type="alibi", feed_forward_type="geglu"))).eval()
with torch.inference_mode():
    short, long = (pack([Tokens([1] * n)], torch.device("cpu")) for n in (64, 8192))
    model(short.input_ids, short.layout)
    before, peak = used(), [0]
    watch(peak)
    model(long.input_ids, long.layout)
print(peak[0] - before)
"""
    result = subprocess.run([sys.executable, "-c", WATCH + code], capture_output=True, text=True, check=True)
    assert 50 < float(result.stdout) < 600  # MB; a dense bias alone would be 3200


def test_code_in_the_folder_is_never_imported(tmp_path):
    folder = write(CASE, tmp_path / "poisoned")
    for name in ("modeling_bert.py", "configuration_bert.py"):
        (folder / name).write_text("raise SystemExit('foreign code ran')", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "configuration_bert.JinaBertConfig", "AutoModel": "modeling_bert.JinaBertModel"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with zr.load_encoder(MODEL, path=folder, device="cpu", dtype="float32") as loaded:
        np.testing.assert_allclose(
            loaded.encode_documents([CASES[1]["text"]])[0], CASES[1]["mean_normalized"], atol=5e-5
        )


def test_a_jina_folder_is_no_plain_bert(tmp_path):
    folder = write(CASE, tmp_path / "jina")
    with pytest.raises(zr.CheckpointError, match="jina-bert"):
        zr.load_encoder("bge-base-zh", path=folder, device="cpu")


def test_bert_prefix_and_half_precision_load(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write(CASE, tmp_path / "prefixed")
    weights = load_file(folder / "model.safetensors")
    half = {f"bert.{name}": tensor.to(torch.float16) for name, tensor in weights.items() if "pooler" not in name}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    with zr.load_encoder(MODEL, path=folder, device="cpu", dtype="float32") as loaded:
        np.testing.assert_allclose(
            loaded.encode_documents([CASES[3]["text"]])[0], CASES[3]["mean_normalized"], atol=2e-3
        )
