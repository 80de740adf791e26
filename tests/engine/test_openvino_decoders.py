"""Graphs of decoder bodies against transformers' eager classes, in batches of mixed lengths."""

import json

import numpy as np
import pytest

from tests.golden.recipe import write
from tests.golden.test_qwen1 import CASE, EXPECTED
from tests.tiny_models import seeded
from tests.without_torch import torch
from zh_retrieval.checkpoint.tensors import read_tensors
from zh_retrieval.checkpoint.weight_files import weight_files
from zh_retrieval.engine.openvino import decoders, readouts
from zh_retrieval.engine.openvino.decoder_sizes import DecoderSizes, has_decoder_graph
from zh_retrieval.engine.openvino.engine import OpenVinoEngine
from zh_retrieval.engine.openvino.inference import Settings
from zh_retrieval.engine.openvino.weights.constants import Weights
from zh_retrieval.sequence import Tokens

LENGTHS = (3, 17, 1, 60, 16, 33, 7, 16)
COMMON = {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 128,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "llama": ("Llama", {}),
    "llama of 3": (
        "Llama",
        {"head_dim": 64, "rope_parameters": LLAMA3, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "llama stretched": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "mistral with a window": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 4, "vocab_size": 33000}),  # more words than a part has
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}


def write_model(name, folder):
    import transformers

    family, more = CONFIGS[name]
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **more})
    model = seeded(getattr(transformers, f"{family}ForCausalLM")(config))
    model.save_pretrained(folder)
    return model


def engine_of(folder, graph, readout, width=1, more_inputs=None, kind=None, **settings):
    """An engine of a folder: `graph` of its decoder, weights rounded to `kind`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert has_decoder_graph(config)
    sizes = DecoderSizes.of(config)

    alive = []

    def build():
        files = weight_files(folder)
        weights = Weights(decoders.as_qwen2(read_tensors(files)), files, "model.", kind)
        alive.append(weights)
        made = graph(decoders.Decoder(sizes, weights, min(sizes.limit, 512)))
        weights.check()
        return made

    options = Settings(**{"bfloat16": False, "threads": 1, **settings})
    return OpenVinoEngine(
        build, readout, options, dtype="float32", width=width, max_batch_tokens=512, more_inputs=more_inputs,
        past=np.empty((2 * sizes.layers, sizes.kv_heads, 0, sizes.head), dtype=np.float32),
    )  # fmt: skip


def sequences(words=300, targets=0):
    generator = np.random.default_rng(0)
    ids = [generator.integers(5, words, length + targets).tolist() for length in LENGTHS]
    if not targets:
        return [Tokens(each) for each in ids]
    counts = [1 + number % targets for number in range(len(ids))]
    return [
        Tokens(each[:-1], targets=tuple(each[len(each) - count :])) for each, count in zip(ids, counts, strict=True)
    ]


def own_likelihoods(model, items):
    scores = []
    for item in items:
        with torch.no_grad():
            logits = model(torch.tensor([item.ids])).logits[0, -len(item.targets) :].float()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(item.targets)[:, None])
        scores.append(chosen.mean().item())
    return np.array(scores)[:, None]


@pytest.mark.parametrize("name", CONFIGS)
def test_likelihoods_equal_transformers(name, tmp_path):
    model = write_model(name, tmp_path)
    items = sequences(model.config.vocab_size, targets=5)
    engine = engine_of(tmp_path, decoders.likelihood_graph, readouts.likelihoods, more_inputs=readouts.target_inputs)
    found = engine.launch(items).result()
    np.testing.assert_allclose(found, own_likelihoods(model, items), atol=1e-5)
    alone = np.concatenate([engine.launch([item]).result() for item in items])
    np.testing.assert_allclose(found, alone, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_row_equals_transformers(name, tmp_path):
    model = write_model(name, tmp_path).model
    items = sequences()
    with torch.no_grad():
        states = torch.stack([model(torch.tensor([item.ids])).last_hidden_state[0, -1] for item in items])
    expected = torch.nn.functional.normalize(states, dim=-1).numpy()
    found = engine_of(tmp_path, decoders.last_token_graph, readouts.pooled("last"), 64).launch(items).result()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_qwen1_equals_the_original_program(tmp_path):
    folder = write(CASE, tmp_path, shards=2)
    engine = engine_of(folder, decoders.likelihood_graph, readouts.likelihoods, more_inputs=readouts.target_inputs)
    items = [
        Tokens([*case["context_ids"], *case["query_ids"][:-1]], targets=tuple(case["query_ids"]))
        for case in EXPECTED["scores"]
    ]
    expected = [[case["score"]] for case in EXPECTED["scores"]]
    np.testing.assert_allclose(engine.launch(items).result(), expected, atol=5e-5)


def test_an_answers_margin_is_the_difference_of_two_logits(tmp_path):
    model, items = write_model("qwen3", tmp_path), sequences()
    engine = engine_of(tmp_path, lambda decoder: decoders.answer_graph(decoder, (7, 9)), readouts.scored)
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([item.ids])).logits[0, -1] for item in items])
    np.testing.assert_allclose(engine.launch(items).result(), (logits[:, 7:8] - logits[:, 9:10]).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
        {"quantization_config": {"quant_method": "gptq"}},
        {"logit_scale": 0.5},
        {"num_attention_heads": None},
        {"model_type": "mixtral"},
    ],
)
def test_what_a_graph_does_not_compute_is_left_to_transformers(more):
    config = {**COMMON, "model_type": "llama"}
    assert has_decoder_graph(config)
    assert not has_decoder_graph({**config, **more})


@pytest.mark.parametrize(("kind", "off"), [("bfloat16", 0.02), ("int8", 0.03), ("int8-rows", 0.03), ("int4", 0.4)])
@pytest.mark.parametrize("activations", [0, 128])
def test_rounded_weights_give_almost_the_same(kind, off, activations, tmp_path):
    model = write_model("qwen2", tmp_path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.3)  # the seeded ones make every rounding grow from layer to layer
    model.save_pretrained(tmp_path)
    items = sequences(model.config.vocab_size, targets=5)
    engine = engine_of(
        tmp_path, decoders.likelihood_graph, readouts.likelihoods, more_inputs=readouts.target_inputs, kind=kind,
        group=activations,
    )  # fmt: skip
    distance = np.abs(engine.launch(items).result() - own_likelihoods(model, items)).max()
    assert off / 20 < distance < off
