"""Qwen-1 checkpoints as transformers' Qwen2, and `qwen.tiktoken` as a fast tokenizer.

Source of the map and of the tokenizer's pattern: modeling_qwen.py and tokenization_qwen.py of Qwen-7B. Dynamic NTK and
log-n scaling act only beyond `seq_length`, which is the length limit here, so neither is needed.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def is_qwen1(config: dict[str, Any]) -> bool:
    """Return True if config.json describes a Qwen-1 checkpoint."""
    return config.get("model_type") == "qwen" or "QWenLMHeadModel" in (config.get("architectures") or ())


def qwen2_config(config: dict[str, Any]) -> Any:
    """Return the transformers `Qwen2Config` that computes what a Qwen-1 config describes.

    Raises:
        CheckpointError: A size is missing, or the variant is one that Qwen2 does not compute.
    """
    from transformers import Qwen2Config

    if config.get("rotary_pct", 1.0) != 1.0 or not config.get("no_bias", True):
        raise CheckpointError("This Qwen-1 variant (partial rotary or biased projections) is unknown.")
    try:
        return Qwen2Config(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"] // 2,
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_attention_heads"],
            max_position_embeddings=config.get("seq_length", 8192),
            rms_norm_eps=config.get("layer_norm_epsilon", 1e-6),
            rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
            tie_word_embeddings=False,
            use_sliding_window=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    except KeyError as error:
        raise CheckpointError(f"config.json of a Qwen-1 checkpoint lacks {error}.") from error


_LAYERS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.w2": ("mlp.gate_proj",),
    "mlp.w1": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}


def qwen2_layers(name: str) -> tuple[str, ...]:
    """Return the Qwen2 layers that hold a Qwen-1 layer, in the order of its rows; () if it is none of Qwen-1's."""
    match = re.fullmatch(r"(?:transformer\.)?h\.(\d+)\.(.+)", name)
    if match is None:
        return ()
    return tuple(f"layers.{match[1]}.{layer}" for layer in _LAYERS.get(match[2], ()))


@lru_cache(maxsize=1)
def qwen1_class() -> Any:
    """Return a Qwen2ForCausalLM that reads Qwen-1 tensor names; ordinary Qwen2 models are not affected.

    The map is registered under the name of this subclass with transformers' public conversion hooks, so that shards,
    dtype, device_map and quantisation go on working.
    """
    from transformers import Qwen2ForCausalLM
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

    class ZhQwen1ForCausalLM(Qwen2ForCausalLM):
        """A Qwen-1 language model."""

    mapping: list[WeightConverter | WeightRenaming] = [
        WeightRenaming(r"^transformer\.wte\.", "model.embed_tokens."),
        WeightRenaming(r"^transformer\.ln_f\.", "model.norm."),
        WeightRenaming(r"^transformer\.h\.", "model.layers."),
        WeightRenaming(r"\.ln_1\.", ".input_layernorm."),
        WeightRenaming(r"\.ln_2\.", ".post_attention_layernorm."),
        *(
            WeightRenaming(rf"\.{re.escape(theirs)}\.", f".{ours[0]}.")
            for theirs, ours in _LAYERS.items()
            if len(ours) == 1
        ),
        *(
            WeightConverter(f"{theirs}.{kind}", [f"{part}.{kind}" for part in ours], operations=[Chunk(dim=0)])
            for theirs, ours in _LAYERS.items()
            if len(ours) > 1
            for kind in ("weight", "bias")
        ),
    ]
    register_checkpoint_conversion_mapping(ZhQwen1ForCausalLM.__name__, mapping, overwrite=True)
    return ZhQwen1ForCausalLM


def qwen_tokenizer(file: Path) -> Tokenizer:
    """Return the fast tokenizer of a `qwen.tiktoken` file; ids equal those of Qwen's own tokenizer.

    Every split of a token into two known tokens becomes a merge, in the order of the token's rank: that is tiktoken's
    rule. Special tokens are recognised in plain text, as the reference does.

    Raises:
        CheckpointError: The file is not a tiktoken vocabulary.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ranks = _read_ranks(file)
    letters = _byte_letters()
    names = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges: list[tuple[int, int, int, str, str]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                merges.append((rank, left, right, names[token[:cut]], names[token[cut:]]))
    merges.sort()
    model = models.BPE(
        {names[token]: rank for token, rank in ranks.items()},
        [(left, right) for *_, left, right in merges],
        ignore_merges=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIALS])
    return tokenizer


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{file} line {number} is not 'base64 rank': {error}. Fetch it again.") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise CheckpointError(f"{file} holds {len(ranks)} tokens whose ranks are not 0, 1, 2, ...: fetch it again.")
    return ranks


def _byte_letters() -> list[str]:
    """Return the printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
