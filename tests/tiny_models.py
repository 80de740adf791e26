"""Tiny random checkpoints in the published layouts, and the vocabularies that go with them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from zh_retrieval import builtin  # the built-in model's tokenizer has the XLM-R scheme

BUILTIN = Path(builtin.__file__).parent / "e5-small-zh"
CHARACTERS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成"
    "会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
)


def seeded(model: Any, seed: int = 0) -> Any:
    """Give every weight a reproducible random value, large enough that mistakes show."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale, shift = (0.2, 1.0) if "norm" in name.lower() and name.endswith("weight") else (0.15, 0.0)
            parameter.copy_(noise * scale + shift)
    return model.eval()


def wordpiece_files(folder: Path) -> None:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json as bge-*-zh has them: one character, one word."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *dict.fromkeys(CHARACTERS + "今天气很好，我们去公园散步。.，"),
    ]
    words += [*"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]
    words = list(dict.fromkeys(words))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def unigram_files(folder: Path) -> None:
    """Write the built-in model's tokenizer, which has XLM-R's scheme: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((BUILTIN / name).read_bytes())


def tiny_bert(folder: Path, *, seed: int = 0, modules: bool = False, pooler: bool = True) -> Path:
    """Write a BERT with upstream's names (a pooler included, as published), and modules.json if asked for."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    wordpiece_files(folder)
    words = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config = BertConfig(
        vocab_size=words, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=512,
    )  # fmt: skip
    seeded(BertModel(config, add_pooling_layer=pooler), seed).save_pretrained(folder)
    if modules:
        listing = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
        (folder / "modules.json").write_text(json.dumps(listing), encoding="utf-8")
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder


def tiny_bert_reranker(folder: Path, *, seed: int = 0, labels: int = 1) -> Path:
    """Write a BERT cross-encoder, as one is trained from bert-base-chinese."""
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    wordpiece_files(folder)
    config = BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()), hidden_size=64,
        num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, num_labels=labels,
    )  # fmt: skip
    seeded(BertForSequenceClassification(config), seed).save_pretrained(folder)
    return folder


def tiny_multilingual_bert(folder: Path, *, seed: int = 0, layers: int = 3) -> Path:
    """Write a BERT whose vocabulary has XLM-R's scheme, as multilingual-e5-small is published."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    config = BertConfig(
        vocab_size=41915, hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=512,
    )  # fmt: skip
    seeded(BertModel(config), seed).save_pretrained(folder)
    return folder


def tiny_xlmr(folder: Path, *, seed: int = 0, positions: int = 514) -> Path:
    """Write an XLM-R body with a pooler, as bge-m3 and multilingual-e5 are published."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    config = XLMRobertaConfig(
        vocab_size=41915, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=positions, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    seeded(XLMRobertaModel(config), seed).save_pretrained(folder)
    return folder


def tiny_bge_m3(folder: Path, *, seed: int = 0) -> Path:
    """Write an XLM-R body and `sparse_linear.pt`, as bge-m3 is published; about half of its tokens have a weight."""
    import torch

    tiny_xlmr(folder, seed=seed, positions=8194)
    linear = torch.nn.Linear(64, 1)
    generator = torch.Generator().manual_seed(seed)
    state = {"weight": 0.05 * torch.randn(1, 64, generator=generator), "bias": torch.tensor([0.0])}
    linear.load_state_dict(state)
    torch.save(linear.state_dict(), folder / "sparse_linear.pt")
    return folder


def tiny_gte(folder: Path, *, seed: int = 4, head: str = "tokens", types: int = 1, prefix: str = "new.") -> Path:
    """Write a GTE with its makers' names and config.json; about half of its tokens have a weight.

    `head` "tokens" is published for sparse vectors, "none" is the body alone, "pairs" a cross-encoder. `prefix` is what
    names begin with: "new." or "" as published, "gte." as transformers' own class saves it.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    shapes = _gte_shapes(types)
    if head == "pairs":
        shapes |= {"pooler.dense.weight": (64, 64), "pooler.dense.bias": (64,)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale, shift = (0.2, 1.0) if name.endswith(("LayerNorm.weight", "_ln.weight")) else (0.15, 0.0)
        tensors[prefix + name] = torch.randn(shape, generator=generator) * scale + shift
    if head != "none":
        tensors["classifier.weight"] = torch.randn((1, 64), generator=generator) * 0.1
        tensors["classifier.bias"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kind = {"tokens": "NewForTokenClassification", "none": "NewModel", "pairs": "NewForSequenceClassification"}[head]
    config = {
        "architectures": [kind], "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
        "model_type": "new", "vocab_size": 41915, "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "gelu", "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12, "max_position_embeddings": 8192, "position_embedding_type": "rope",
        "rope_theta": 20000, "rope_scaling": {"factor": 8.0, "type": "ntk"}, "pack_qkv": True, "pad_token_id": 1,
        "type_vocab_size": types, "logn_attention_scale": False, "id2label": {"0": "LABEL_0"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _gte_shapes(types: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a GTE's body and their shapes."""
    hidden, inner = 64, 96
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (41915, hidden)}
    shapes |= {"embeddings.token_type_embeddings.weight": (types, hidden)} if types else {}
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}." for number in range(3)):
        norms += [f"{layer}attn_ln", f"{layer}mlp_ln"]
        shapes |= {
            f"{layer}attention.qkv_proj.weight": (3 * hidden, hidden), f"{layer}attention.qkv_proj.bias": (3 * hidden,),
            f"{layer}attention.o_proj.weight": (hidden, hidden), f"{layer}attention.o_proj.bias": (hidden,),
            f"{layer}mlp.up_gate_proj.weight": (2 * inner, hidden),
            f"{layer}mlp.down_proj.weight": (hidden, inner), f"{layer}mlp.down_proj.bias": (hidden,),
        }  # fmt: skip
    return shapes | {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}


def tiny_xlmr_reranker(folder: Path, *, seed: int = 0, positions: int = 514, labels: int = 1) -> Path:
    """Write an XLM-R cross-encoder with so many labels and the XLM-R scheme vocabulary."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    config = XLMRobertaConfig(
        vocab_size=41915, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=positions, type_vocab_size=1, num_labels=labels, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, layer_norm_eps=1e-5,
    )  # fmt: skip
    seeded(XLMRobertaForSequenceClassification(config), seed).save_pretrained(folder)
    return folder


def tiny_mistral(folder: Path, *, seed: int = 0, window: int = 4096) -> Path:
    """Write a Mistral body with grouped heads and a tokenizer.json whose post-processor adds `<s>` only."""
    from tokenizers import processors
    from transformers import MistralConfig, MistralModel

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = MistralConfig(
        vocab_size=41915, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=32768, sliding_window=window, pad_token_id=1, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    seeded(MistralModel(config), seed).save_pretrained(folder, max_shard_size="4MB")
    return folder


QWEN_WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "yes", "no")


def qwen_words(folder: Path) -> int:
    """Add Qwen's special tokens, and the answers of its reranker, to a tokenizer.json; return its number of words."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(list(QWEN_WORDS))
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def tiny_qwen3(folder: Path, *, seed: int = 0, head: bool = False) -> Path:
    """Write a Qwen3 body, or with its tied head: heads of 32 where the hidden size over their number is 16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    config = Qwen3Config(
        vocab_size=qwen_words(folder), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, intermediate_size=128, max_position_embeddings=32768,
        tie_word_embeddings=True, use_sliding_window=False,
    )  # fmt: skip
    seeded((Qwen3ForCausalLM if head else Qwen3Model)(config), seed).save_pretrained(folder)
    return folder


def tiny_causal_lm(folder: Path, *, kind: str = "llama", seed: int = 0) -> Path:
    """Write a causal LM: "llama" (packed) or "bloom" (no attention interface, so padded)."""
    from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    unigram_files(folder)
    if kind == "bloom":
        model: Any = BloomForCausalLM(BloomConfig(vocab_size=41915, hidden_size=64, n_layer=2, n_head=4))
    else:
        config = LlamaConfig(
            vocab_size=41915, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=128, max_position_embeddings=8192, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    seeded(model, seed).save_pretrained(folder)
    return folder


def tiny_qwen1(folder: Path) -> Path:
    """Write the golden Qwen-1 in two .bin shards, the first of which ends within transformer.h; XLM-R's vocabulary."""
    return Path(shutil.copytree(_qwen1(), folder, dirs_exist_ok=True))


@cache
def _qwen1() -> Path:
    """Make the folder that is copied: its 157 MB take ten times as long to make."""
    from tests.golden import recipe

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    recipe.write(Path(recipe.__file__).parent / "qwen1", folder, as_bin=True, shards=2)
    unigram_files(folder)
    return folder
