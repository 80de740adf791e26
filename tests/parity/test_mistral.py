"""Last-token Mistral embeddings against the eager MistralModel, with a tokenizer.json that adds `<s>` only."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.tiny_models import tiny_mistral
from zh_retrieval.layers.attention import _attend_runs
from zh_retrieval.layers.packing import pack
from zh_retrieval.sequence import Tokens

TEXTS = ["", "好", "今天天气很好。", "我们去公园散步，" * 40, "然后回家做饭。" * 3]
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module", params=ENGINES)
def encoder(folder, request):
    with load_by(request.param, zr.load_encoder, "e5-mistral", path=folder, device="cpu", dtype="float32") as loaded:
        yield loaded


def reference(folder, texts, max_length=4096):
    from transformers import MistralModel

    model = MistralModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    rows = []
    for text in texts:
        ids = [0, *tokenizer.encode(text, add_special_tokens=False).ids[: max_length - 2], 2]
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0, -1]
        rows.append(torch.nn.functional.normalize(hidden, dim=0).numpy())
    return np.stack(rows)


def test_documents_equal_the_eager_model(folder, encoder):
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), reference(folder, TEXTS), atol=1e-5)


def test_queries_carry_the_default_instruction(folder, encoder):
    prompted = [f"Instruct: {INSTRUCTION}\nQuery: {text}" for text in TEXTS]
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), reference(folder, prompted), atol=1e-5)


def test_the_instruction_can_be_given_per_call(folder, encoder):
    found = encoder.encode_queries(["好"], instruction="Find {similar} text")
    np.testing.assert_allclose(found, reference(folder, ["Instruct: Find {similar} text\nQuery: 好"]), atol=1e-5)


@pytest.mark.parametrize("text", ["", "短", "很长的文字" * 3000])
def test_ids_start_with_bos_and_end_with_eos(encoder, text):
    ids = encoder._documents([text]).prepare(0, 1)[0].ids
    assert ids[0] == 0
    assert ids[-1] == 2
    assert len(ids) <= 4096


def test_a_smaller_sliding_window_is_kept(tmp_path):
    folder = tiny_mistral(tmp_path / "window", window=16)
    with zr.load_encoder("e5-mistral", path=folder, device="cpu", dtype="float32") as encoder:
        assert encoder.max_length == 16


def test_sliding_window_attention_equals_a_banded_mask():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(12, heads, 8, generator=generator) for heads in (4, 2, 2))
    layout = pack([Tokens([1] * 9), Tokens([1] * 3)], torch.device("cpu")).layout
    found = _attend_runs(q, k, v, layout.runs, True, None, 4)
    expected = torch.empty_like(q)
    for i in range(12):
        start = 0 if i < 9 else 9
        seen = slice(max(start, i - 3), i + 1)
        for head in range(4):
            weights = (k[seen, head // 2] @ q[i, head] / 8**0.5).softmax(0)
            expected[i, head] = weights @ v[seen, head // 2]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_no_keys_and_values_are_kept(folder):
    batch = pack([Tokens([0, 5, 2])], torch.device("cpu"))
    with load_by("torch", zr.load_encoder, "e5-mistral", path=folder, device="cpu", private=True) as loaded:
        output = loaded._model.engine._body(
            input_ids=batch.input_ids, position_ids=batch.position_ids, packed=batch.layout
        )
    assert list(output) == ["last_hidden_state"]


def test_sequences_are_not_searched_for(encoder, monkeypatch):
    def waits_for_the_device(*_):
        raise AssertionError("transformers looks at the values of the position ids")

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", waits_for_the_device)
    assert encoder.encode_documents(["好", "天气"]).shape == (2, 64)
