"""Qwen-1 checkpoints as Qwen2: scores, log-probabilities, logits and ids of the original programs (expected.json)."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.golden.recipe import write
from tests.without_torch import torch
from zh_retrieval.checkpoint.folder import open_folder, read_config
from zh_retrieval.tokenization.tiktoken import qwen_tokenizer

HERE = Path(__file__).parent
CASE = HERE / "qwen1"
EXPECTED = json.loads((CASE / "expected.json").read_text(encoding="utf-8"))
PAIRS = [(case["query"], case["document"]) for case in EXPECTED["scores"]]
SCORES = [case["score"] for case in EXPECTED["scores"]]


def tiktoken_file() -> Path:
    """Return the qwen.tiktoken that the dashscope package carries, without importing the package."""
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


def checkpoint(folder: Path, **layout) -> Path:
    write(CASE, folder, **layout)
    shutil.copy(tiktoken_file(), folder / "qwen.tiktoken")
    return folder


def load(folder: Path) -> zr.Reranker:
    return zr.load_reranker("rankinggpt", path=folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("qwen1") / "one")


@pytest.fixture(scope="module", params=ENGINES)
def reranker(folder, request):
    with load_by(request.param, load, folder) as loaded:
        yield loaded


def test_scores_packed_equal_the_reference(reranker):
    np.testing.assert_allclose(reranker.score(PAIRS), SCORES, atol=5e-5)


def test_scores_alone_equal_the_reference(reranker):
    np.testing.assert_allclose([reranker.score([pair])[0] for pair in PAIRS], SCORES, atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"shards": 3}, {"as_bin": True}, {"as_bin": True, "shards": 2}])
def test_every_file_layout_gives_the_same_scores(tmp_path, layout, each_engine):
    with load(checkpoint(tmp_path / "other", **layout)) as other:
        np.testing.assert_allclose(other.score(PAIRS), SCORES, atol=5e-5)


def test_context_and_query_ids_equal_the_reference(reranker):
    tokenizer = reranker._model.tokenizer
    for case in EXPECTED["scores"]:
        assert tokenizer.ids([f"Document: {case['document']} Query:"])[0] == case["context_ids"]
        assert tokenizer.ids([case["query"]])[0] == case["query_ids"]


def test_log_probabilities_and_logits_equal_the_reference(folder):
    from transformers import Qwen2ForCausalLM

    from zh_retrieval.models.qwen1 import qwen1_class, qwen2_config

    config = qwen2_config(read_config(folder))
    model = qwen1_class().from_pretrained(folder, config=config, dtype=torch.float32).eval()
    assert isinstance(model, Qwen2ForCausalLM)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([EXPECTED["logits"]["input_ids"]])).logits[0]
        np.testing.assert_allclose(logits[:, :8].numpy(), EXPECTED["logits"]["first_8_of_each_position"], atol=5e-5)
        np.testing.assert_allclose(logits.logsumexp(-1).numpy(), EXPECTED["logits"]["logsumexp"], atol=5e-5)
        for case in EXPECTED["scores"]:
            query = case["query_ids"]
            rows = model(input_ids=torch.tensor([case["context_ids"] + query[:-1]])).logits[0, -len(query) :]
            found = rows.log_softmax(-1).gather(1, torch.tensor(query)[:, None])[:, 0]
            np.testing.assert_allclose(found.numpy(), case["logprobs"], atol=5e-5)


def test_tokenizer_ids_equal_the_reference():
    tokenizer = qwen_tokenizer(tiktoken_file())
    for case in json.loads((HERE / "qwen_tokenizer_cases.json").read_text(encoding="utf-8")):
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"], case["text"]


@pytest.mark.slow
def test_a_missing_tensor_is_an_error_that_names_it(tmp_path, each_engine):
    broken = checkpoint(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["transformer.h.1.mlp.w1.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(zr.CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        load(broken)


@pytest.mark.slow
def test_code_in_the_folder_is_never_imported(tmp_path, each_engine):
    poisoned = checkpoint(tmp_path / "poisoned")
    for name in ("modeling_qwen.py", "configuration_qwen.py", "tokenization_qwen.py"):
        (poisoned / name).write_text("raise SystemExit('foreign code ran')", encoding="utf-8")
    with load(poisoned) as loaded:
        np.testing.assert_allclose(loaded.score(PAIRS[:1]), SCORES[:1], atol=5e-5)


def test_ordinary_qwen2_checkpoints_are_not_touched(tmp_path, reranker):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=151936, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "qwen2")
    loaded, info = Qwen2ForCausalLM.from_pretrained(tmp_path / "qwen2", output_loading_info=True)
    assert not info["missing_keys"]
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits)


def test_bfloat16_loads_in_bfloat16(folder):
    from zh_retrieval.checkpoint.load import Placement, load_checkpoint

    spec = zr.get_spec("rankinggpt")
    parts = load_checkpoint(open_folder(folder, spec, trusted_sizes=True), spec, Placement(torch.bfloat16))
    assert {parameter.dtype for parameter in parts.body.parameters()} == {torch.bfloat16}
