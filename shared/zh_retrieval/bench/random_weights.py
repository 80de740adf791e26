"""Checkpoints of the real size with random weights: as fast as the real ones, and no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from zh_retrieval.checkpoint.load import quiet
from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.models import family
from zh_retrieval.recipes.rules import ARCHITECTURES
from zh_retrieval.recipes.spec import ModelSpec

_ASCII = "".join(chr(code) for code in range(33, 127))
_PUNCTUATION = "，。？！：；、“”‘’（）《》—…"
_IDEOGRAPHS = range(0x4E00, 0x9FA6)


def write(spec: ModelSpec, folder: Path) -> None:
    """Write config.json, weights and a vocabulary of single characters into a folder.

    Weights are float32, bfloat16 from a billion parameters on.

    Raises:
        ConfigError: The entry says nothing of the model's shape.
    """
    if not spec.shape:
        raise ConfigError(f"The entry of {spec.name} has no shape for random weights. Leave --random out.")
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if (spec.parameters or 0) > 10**9 else torch.float32)
    try:
        model = build(spec)
    finally:
        torch.set_default_dtype(before)
    with quiet():
        model.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**saved, **_config(spec)}), encoding="utf-8")
    _write_vocabulary(spec, folder)
    if spec.dense:
        _write_dense(spec, folder)


def build(spec: ModelSpec) -> Any:
    """Return the transformers model of an entry, random, on torch's default device.

    Raises:
        ConfigError: The entry's shape is not one of its architecture.
    """
    try:
        plan = family(spec.architecture, spec.scoring)(_config(spec))
        return plan.cls(plan.config, **plan.arguments)
    except (CheckpointError, TypeError, ValueError) as error:
        raise ConfigError(f"The shape of {spec.name} describes no {spec.architecture!r} model: {error}") from error


def _config(spec: ModelSpec) -> dict[str, Any]:
    return {"model_type": spec.architecture, **spec.shape}


def _write_dense(spec: ModelSpec, folder: Path) -> None:
    """Write a layer after pooling, as sentence-transformers does."""
    sizes = {"in_features": spec.shape["hidden_size"], "out_features": spec.dimension}
    layer = nn.Linear(sizes["in_features"], sizes["out_features"])
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": spec.pooling == "cls", "pooling_mode_mean_tokens": spec.pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    (folder / "2_Dense").mkdir()
    settings = {**sizes, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(
        {f"linear.{name}": value for name, value in layer.state_dict().items()}, folder / "2_Dense/model.safetensors"
    )
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def floating_operations(spec: ModelSpec, lengths: list[int]) -> float:
    """Return how many the body needs for sequences of these lengths: matrix products and attention, heads left out."""
    with torch.device("meta"):
        model = build(spec)
    body, config = model.base_model, model.config
    weights = sum(module.weight.numel() for module in body.modules() if isinstance(module, nn.Linear))
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 4 * config.num_hidden_layers * width
    share = 0.5 if ARCHITECTURES[spec.architecture].causal else 1.0  # a causal token sees half the others
    return float(sum(2 * weights * length + share * attention * length * length for length in lengths))


def _write_vocabulary(spec: ModelSpec, folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    bert = "[CLS]" in spec.prefix
    unknown, padding = ("[UNK]", "[PAD]") if bert else ("<unk>", "<pad>")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if bert else ["<s>", "<pad>", "</s>", "<unk>"]
    special += [word for word in (*spec.prefix, *spec.suffix, *spec.separator, *spec.answers) if word not in special]
    characters = [*_ASCII, *_PUNCTUATION, *map(chr, _IDEOGRAPHS)]
    words = [*special, *characters, *(f"##{char}" for char in _ASCII if char.isalnum())]
    vocabulary = {word: i for i, word in enumerate(words) if i < spec.shape["vocab_size"]}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    single = [*spec.prefix, "$A", *spec.suffix]
    pair = [*spec.prefix, "$A", *spec.separator, "$B", *spec.suffix]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(word, vocabulary[word]) for word in special]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unknown, "pad_token": padding,
        "model_max_length": spec.length_limit,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
