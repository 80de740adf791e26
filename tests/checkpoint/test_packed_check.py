"""A causal LM is compared with itself when it is loaded."""

import pytest
import torch
from tokenizers import Tokenizer

import zh_retrieval as zr
from tests.parity.causal_configs import build, model_class
from zh_retrieval.checkpoint.folder import open_folder, read_config
from zh_retrieval.checkpoint.load import Placement, load_checkpoint
from zh_retrieval.checkpoint.packed_check import PackedCheck
from zh_retrieval.layers import attention, masks
from zh_retrieval.models.causal_lm import causal_lm
from zh_retrieval.tokenization.tokenizer import build as build_tokenizer

CPU = torch.device("cpu")
SPEC = zr.get_spec("rankinggpt")


def checkpoint(family, folder, **sizes):
    opened = open_folder(build(family, folder, **sizes), SPEC, trusted_sizes=True)
    return load_checkpoint(opened, SPEC, Placement(torch.float32)), opened.tokenizer


def count_passes(module):
    passes = []
    module.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_four_short_passes_settle_a_model_that_packs(tmp_path):
    parts, tokenizer = checkpoint("llama", tmp_path)
    passes = count_passes(parts.body)
    chosen = PackedCheck(parts, tokenizer, CPU).choose()
    assert (chosen.packed, chosen.causal, len(passes)) == (True, True, 4)
    assert parts.whole.config._attn_implementation == attention.NAME


def test_a_fourth_settles_one_that_does_not(tmp_path):
    parts, tokenizer = checkpoint("lfm2", tmp_path)
    passes = count_passes(parts.body)
    chosen = PackedCheck(parts, tokenizer, CPU).choose()
    assert (chosen.packed, chosen.causal, len(passes)) == (False, False, 4)
    assert parts.whole.config._attn_implementation == "eager"


class OffInBatches:
    """Makes a body give other states in batches than alone."""

    def __init__(self, body, key, by=0.3):
        self._key, self._by = key, by
        body.register_forward_hook(self._hook, with_kwargs=True)

    def _hook(self, _module, _args, kwargs, output):
        if kwargs.get(self._key) is not None:
            output.last_hidden_state = output.last_hidden_state.roll(1, -1) * (1 + self._by)
        return output


def test_what_is_only_wrong_packed_is_padded(tmp_path):
    parts, tokenizer = checkpoint("llama", tmp_path)
    OffInBatches(parts.body, "packed")
    assert not PackedCheck(parts, tokenizer, CPU).choose().packed


def test_what_is_only_wrong_where_a_prefix_is_shared_shares_none(tmp_path, monkeypatch):
    parts, tokenizer = checkpoint("llama", tmp_path)
    monkeypatch.setattr(
        attention, "band", lambda length, window, device, before=0: masks.band(length, 1, device, before)
    )
    chosen = PackedCheck(parts, tokenizer, CPU).choose()
    assert (chosen.packed, chosen.causal) == (True, False)


def test_what_is_wrong_either_way_is_refused_by_name(tmp_path):
    parts, tokenizer = checkpoint("llama", tmp_path)
    OffInBatches(parts.body, "packed")
    OffInBatches(parts.body, "attention_mask")
    with pytest.raises(zr.CheckpointError, match="'llama' is not supported: a batch does not give"):
        PackedCheck(parts, tokenizer, CPU).choose()


def test_running_out_of_memory_is_no_fault_of_the_family(tmp_path):
    parts, tokenizer = checkpoint("llama", tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("full")

    parts.body.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        PackedCheck(parts, tokenizer, CPU)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    with pytest.raises(zr.CheckpointError, match="'bert' is no causal language model"):
        zr.load_reranker("rankinggpt", path=build("bert", tmp_path, is_decoder=False), device="cpu", dtype="float32")


@pytest.mark.parametrize(("family", "name"), [("mistral", "sliding_window"), ("gemma2", "sliding_window")])
def test_windows_are_as_before_after_the_check(family, name, tmp_path):
    parts, tokenizer = checkpoint(family, tmp_path, sliding_window=300)
    PackedCheck(parts, tokenizer, CPU).choose()
    assert parts.whole.config.sliding_window == 300
    sizes = {getattr(module, name) for module in parts.body.modules() if hasattr(module, name)}
    assert sizes <= {300, None}


def test_a_window_that_only_long_sequences_leave_is_seen_in_short_ones(tmp_path):
    """OLMoE hands its window to attention, but its own masks have none."""
    parts, tokenizer = checkpoint("olmoe", tmp_path, sliding_window=300)
    assert not PackedCheck(parts, tokenizer, CPU).choose().packed


def test_parameters_that_accelerate_keeps_elsewhere_are_fetched(tmp_path):
    from accelerate import cpu_offload

    folder = build("cohere", tmp_path)
    attention.register()
    model = model_class("cohere").from_pretrained(folder, attn_implementation=attention.NAME).eval()
    cpu_offload(model, execution_device=CPU)
    assert all(parameter.is_meta for parameter in model.parameters())
    parts = causal_lm(read_config(folder)).parts(model)
    tokenizer = build_tokenizer(Tokenizer.from_file(str(folder / "tokenizer.json")), SPEC, folder)
    assert PackedCheck(parts, tokenizer, CPU).choose().packed


def test_the_head_holds_the_weights_of_the_model_and_no_others(tmp_path):
    parts, _ = checkpoint("cohere", tmp_path)
    own = {id(parameter) for parameter in parts.whole.parameters()}
    assert {id(parameter) for parameter in parts.head.parameters()} <= own
    assert len(list(parts.head.parameters())) == 1


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(("rope", "limit"), [({"rope_type": "default", "rope_theta": 1e4}, 512), (LONG, 64)])
def test_lengths_at_which_positions_follow_the_batch_are_not_reached(rope, limit, tmp_path):
    parts, _ = checkpoint("phi3", tmp_path, rope_parameters=rope, original_max_position_embeddings=64)
    assert parts.length_limit == limit


def test_a_config_with_infinity_as_transformers_writes_it_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, {"__float__": "Infinity"}]}')
    assert read_config(tmp_path) == {"time_step_limit": [0.0, float("inf")]}


def test_a_config_that_a_family_refuses_is_a_checkpoint_error():
    with pytest.raises(zr.CheckpointError, match="no valid 'llama'"):
        causal_lm({"model_type": "llama", "hidden_size": "wide"})


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere"])
def test_a_head_of_some_words_gives_what_the_whole_gives(family, tmp_path):
    parts, _ = checkpoint(family, tmp_path)
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(parts.head.only((7, 3))(rows), parts.head(rows)[:, [7, 3]], atol=1e-5, rtol=0)


def test_a_head_of_some_words_is_finer_than_bfloat16(tmp_path):
    parts, _ = checkpoint("gemma2", tmp_path)
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        parts.whole.bfloat16()
        narrow, whole = parts.head.only((7, 3))(rows), parts.head(rows)[:, [7, 3]].float()
        exact = parts.whole.float().lm_head(rows.float())[:, [7, 3]]
    exact = torch.tanh(exact / 2) * 2
    assert (narrow - exact).abs().max() < 1e-5 < 1e-4 < (whole - exact).abs().max()
