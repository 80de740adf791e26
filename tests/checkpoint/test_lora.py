"""LoRA adapters against peft's own, unmerged forward pass."""

import json

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import zh_retrieval as zr
from tests.golden.test_qwen1 import checkpoint
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_mistral
from zh_retrieval.models import qwen1

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXTS = ["今天天气很好，我们去公园散步。", "abc"]
PAIRS = [("散步", "今天天气很好，我们去公园散步。"), ("天气", "abc")]


def adapter(model, folder, base, **settings):
    """Wrap a model as a user's training would, with updates that are not zero, and save the adapter alone."""
    config = LoraConfig(r=4, lora_alpha=16, base_model_name_or_path=str(base), **settings)
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def final_states(wrapped, encoder, texts):
    """Return peft's own last hidden states, one (T, H) for each framed text."""
    tokenizer = encoder._model.tokenizer
    rows = [tokenizer.frame(ids, 512) for ids in tokenizer.ids(texts)]
    with torch.no_grad():
        return [wrapped(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in rows]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_an_adapter_for_e5_mistral_gives_pefts_vectors(tmp_path, settings):
    base = tiny_mistral(tmp_path / "base")
    targets = ["q_proj", "v_proj", "down_proj"]
    wrapped = adapter(AutoModel.from_pretrained(base), tmp_path / "lora", base, target_modules=targets, **settings)
    with zr.load_encoder("e5-mistral", path=tmp_path / "lora", **OPTIONS) as ours:
        vectors = ours.encode_documents(TEXTS)
        expected = torch.stack([rows[-1] for rows in final_states(wrapped, ours, TEXTS)])
    np.testing.assert_allclose(vectors, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)
    with zr.load_encoder("e5-mistral", path=base, **OPTIONS) as plain:
        assert np.abs(plain.encode_documents(TEXTS) - vectors).max() > 0.01


@pytest.mark.slow
def test_an_adapter_trained_with_a_head_fits_the_body(tmp_path):
    base = tiny_causal_lm(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = adapter(model, tmp_path / "lora", base, target_modules="all-linear", task_type="CAUSAL_LM")
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in base.glob("tokenizer*"):
        (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
    with zr.load_reranker("rankinggpt", path=tmp_path / "merged", **OPTIONS) as ours:
        expected = ours.score(PAIRS)
    with zr.load_reranker("rankinggpt", path=tmp_path / "lora", **OPTIONS) as ours:
        np.testing.assert_allclose(ours.score(PAIRS), expected, atol=1e-5)
    with zr.load_reranker("rankinggpt", path=base, **OPTIONS) as plain:
        assert np.abs(plain.score(PAIRS) - expected).max() > 0.01


def qwen1_adapter(folder, base, rank=4, alpha=16):
    """Write the adapter of a Qwen-1 by hand, and return the update of each checkpoint tensor by its name."""
    config = json.loads((base / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"] // 2
    sizes = {"attn.c_attn": (3 * hidden, hidden), "attn.c_proj": (hidden, hidden), "mlp.w1": (inner, hidden)}
    generator = torch.Generator().manual_seed(3)
    weights, updates = {}, {}
    for layer in range(config["num_hidden_layers"]):
        for name, (rows, columns) in sizes.items():
            a, b = (torch.randn(size, generator=generator) * 0.1 for size in ((rank, columns), (rows, rank)))
            full = f"transformer.h.{layer}.{name}"
            weights |= {f"base_model.model.{full}.lora_A.weight": a, f"base_model.model.{full}.lora_B.weight": b}
            updates[f"{full}.weight"] = b @ a * (alpha / rank)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["c_attn", "c_proj", "w1"], base_model_name_or_path=str(base)
    ).save_pretrained(folder)
    return updates


@pytest.mark.slow
def test_an_adapter_for_the_original_qwen_1_is_mapped_like_its_weights(tmp_path):
    base, changed = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "changed")
    updates = qwen1_adapter(tmp_path / "lora", base)
    (file,) = changed.glob("*.safetensors")
    tensors = load_file(file)
    assert set(updates) < set(tensors)
    save_file({name: tensor + updates.get(name, 0) for name, tensor in tensors.items()}, file, {"format": "pt"})
    with zr.load_reranker("rankinggpt", path=changed, **OPTIONS) as ours:
        expected = ours.score(PAIRS)
    with zr.load_reranker("rankinggpt", path=tmp_path / "lora", **OPTIONS) as ours:
        np.testing.assert_allclose(ours.score(PAIRS), expected, atol=1e-5)
    with zr.load_reranker("rankinggpt", path=base, **OPTIONS) as plain:
        assert np.abs(plain.score(PAIRS) - expected).max() > 0.01


def test_qwen_1_layers_have_their_place():
    assert qwen1.qwen2_layers("transformer.h.3.mlp.c_proj") == ("layers.3.mlp.down_proj",)
    assert qwen1.qwen2_layers("transformer.wte") == ()


def test_an_adapter_for_bert_and_its_base_are_two_models(tmp_path):
    base = tiny_bert(tmp_path / "base")
    wrapped = adapter(AutoModel.from_pretrained(base), tmp_path / "lora", base, target_modules=["query", "value"])
    with zr.load_encoder("bge-base-zh", path=tmp_path / "lora", **OPTIONS) as ours:
        with zr.load_encoder("bge-base-zh", path=base, **OPTIONS) as plain:
            assert np.abs(ours.encode_documents(TEXTS) - plain.encode_documents(TEXTS)).max() > 0.01
        expected = torch.stack([rows[0] for rows in final_states(wrapped, ours, TEXTS)])
        np.testing.assert_allclose(
            ours.encode_documents(TEXTS), torch.nn.functional.normalize(expected, dim=1), atol=1e-5
        )
    assert isinstance(wrapped, PeftModel)


def settings(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_adapters_that_do_not_fit_are_refused(tmp_path):
    base = tiny_bert(tmp_path / "base")
    lora = tmp_path / "lora"
    adapter(AutoModel.from_pretrained(base), lora, base, target_modules=["query"])

    def refused(message, path=lora):
        with pytest.raises(zr.CheckpointError, match=message):
            zr.load_encoder("bge-base-zh", path=path, **OPTIONS)

    settings(lora, base_model_name_or_path="someone/else")
    refused(r"trained on 'someone/else': no folder here, and none of the hub ids of bge-base-zh-v1\.5")
    settings(lora, base_model_name_or_path=None)
    refused("does not say base_model_name_or_path")
    settings(lora, base_model_name_or_path=str(base))
    file = lora / "adapter_model.safetensors"
    save_file({name: tensor / 0 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    refused("lora_A.weight' holds NaN or Inf")
    file.write_bytes(b"{")
    refused("cannot be read")

    other, mistral = tmp_path / "other", tiny_mistral(tmp_path / "mistral")
    adapter(AutoModel.from_pretrained(mistral), other, mistral, target_modules=["q_proj"])
    settings(other, base_model_name_or_path=str(base))
    refused(r"changes 'layers\.0\.self_attn\.q_proj', which the base model's body does not have", other)

    saved = tmp_path / "saved"
    adapter(AutoModel.from_pretrained(base), saved, base, target_modules=["query"], modules_to_save=["LayerNorm"])
    refused("which is no LoRA update", saved)

    ia3 = tmp_path / "ia3"
    wrapped = get_peft_model(
        AutoModel.from_pretrained(base), IA3Config(target_modules=["query"], feedforward_modules=[])
    )
    wrapped.save_pretrained(ia3)
    settings(ia3, base_model_name_or_path=str(base))
    refused("holds a .*IA3 adapter, expected LoRA", ia3)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_proj", r"layers\.0\.self_attn\.q_proj", "^model.*q_proj"])
def test_ranks_and_scales_of_single_layers_follow_the_names_of_the_trained_class(tmp_path, key):
    base = tiny_mistral(tmp_path / "base")
    torch.manual_seed(0)
    trained = AutoModelForCausalLM.from_pretrained(base)
    adapter(
        trained, tmp_path / "lora", base, target_modules=["q_proj", "v_proj"], rank_pattern={key: 2},
        alpha_pattern={key: 64},
    )  # fmt: skip
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora").merge_and_unload()
    with zr.load_encoder("e5-mistral", path=tmp_path / "lora", **OPTIONS) as ours:
        ids = [list(tokens.ids) for tokens in ours._documents(TEXTS).prepare(0, len(TEXTS))]
        with torch.inference_mode():
            rows = torch.stack([merged.model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])
        np.testing.assert_allclose(ours.encode_documents(TEXTS), torch.nn.functional.normalize(rows, dim=1), atol=1e-5)


@pytest.mark.parametrize(("key", "message"), [("k_proj", "changes no such layer"), ("(", "no expression")])
def test_a_pattern_that_names_no_layer_is_refused(tmp_path, key, message):
    base = tiny_bert(tmp_path / "base")
    adapter(AutoModel.from_pretrained(base), tmp_path / "lora", base, target_modules=["query"])
    settings(tmp_path / "lora", alpha_pattern={key: 8})
    with pytest.raises(zr.CheckpointError, match=message):
        zr.load_encoder("bge-base-zh", path=tmp_path / "lora", **OPTIONS)


def test_a_base_that_is_a_hub_id_of_the_model_is_fetched(tmp_path):
    base = tiny_bert(tmp_path / "base")
    adapter(AutoModel.from_pretrained(base), tmp_path / "lora", base, target_modules=["query"])
    settings(tmp_path / "lora", base_model_name_or_path="BAAI/bge-base-zh-v1.5")
    with pytest.raises(zr.DownloadError, match=r"bge-base-zh-v1\.5 is not complete on this machine"):
        zr.load_encoder(
            "bge-base-zh", path=tmp_path / "lora", cache_dir=tmp_path / "empty", local_files_only=True, **OPTIONS
        )
