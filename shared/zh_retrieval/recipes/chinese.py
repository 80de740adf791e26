"""Embedders of many makers on Chinese BERTs: GTE, stella, m3e, piccolo, text2vec, the first BGE."""

from __future__ import annotations

from typing import Any

from zh_retrieval.recipes.encoders import BGE_INSTRUCTION, BGE_RANGE
from zh_retrieval.recipes.spec import ModelSpec, Source

_MS, _HF = "modelscope", "huggingface"
_COSINE = "cosine in [-1, 1]"
_BERTS: dict[int, tuple[int, int]] = {512: (4, 23_953_920), 768: (12, 102_267_648), 1024: (24, 325_522_432)}
"""Hidden size of a Chinese BERT -> its layers, and how many weights it has, a pooler included."""


def _chinese_bert(
    name: str, hidden: int, *sources: tuple[Any, str], layers: int | None = None, **more: Any
) -> ModelSpec:
    """Return an embedder on a BERT with the 21128 words of bert-base-chinese; each of its layers has heads of 64."""
    usual, parameters = _BERTS[hidden]
    layers = layers or usual
    parameters += (layers - usual) * (12 * hidden * hidden + 13 * hidden)
    outputs = more.setdefault("dimension", hidden)
    return ModelSpec(
        name=name,
        task="embedding",
        architecture="bert",
        sources=tuple(Source(hub, id) for hub, id in sources),
        parameters=parameters + (outputs * (hidden + 1) if more.get("dense") else 0),
        shape={
            "vocab_size": 21128,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "intermediate_size": 4 * hidden,
            "max_position_embeddings": 512,
        },
        **{"languages": ("zh",), "license": "MIT", "score_range": _COSINE, **more},
    )


# FlagEmbedding README: the recipe of v1.5, whose names are taken. ModelScope ids: Xinference's catalogue.
_BGE_V1 = tuple(
    _chinese_bert(
        f"bge-{size}-zh-v1", hidden, (_MS, f"Xorbits/bge-{size}-zh"), (_HF, f"BAAI/bge-{size}-zh"), pooling="cls",
        query_template="{instruction}{text}", instruction=BGE_INSTRUCTION, score_range=BGE_RANGE,
    )
    for size, hidden in (("small", 512), ("base", 768), ("large", 1024))
)  # fmt: skip

# thenlper's 1_Pooling/config.json (commit c614179 of gte-large-zh): row 0; no prompts. gte-small-zh has 6 layers.
_GTE = tuple(
    _chinese_bert(
        f"gte-{size}-zh", hidden, (_MS, f"thenlper/gte-{size}-zh"), (_HF, f"thenlper/gte-{size}-zh"), layers=layers,
        pooling="cls",
    )
    for size, hidden, layers in (("small", 512, 6), ("base", 768, 12), ("large", 1024, 24))
)  # fmt: skip

# moka-ai's 1_Pooling/config.json (commits 764b537 and 44c6966): mean; no prompts.
_M3E = tuple(
    _chinese_bert(
        f"m3e-{size}", hidden, (_MS, f"AI-ModelScope/m3e-{size}"), (_HF, f"moka-ai/m3e-{size}"), pooling="mean",
        license="non-commercial", notice="its makers allow research, and no commercial use.",
    )
    for size, hidden in (("small", 512), ("base", 768), ("large", 1024))
)  # fmt: skip

# shibing624's 1_Pooling/config.json and sentence_bert_config.json: mean, 128 tokens; no prompts.
_TEXT2VEC = _chinese_bert(
    "text2vec-base-chinese", 768, (_MS, "Jerry0/text2vec-base-chinese"), (_HF, "shibing624/text2vec-base-chinese"),
    pooling="mean", max_length=128, length_limit=512, license="Apache-2.0",
)  # fmt: skip

# sensenova's model cards: these prompts for search (their text on training has a narrow colon and a blank instead).
_PICCOLO = tuple(
    _chinese_bert(
        f"piccolo-{size}-zh", hidden, (_MS, f"SenseNova/piccolo-{size}-zh"), (_HF, f"sensenova/piccolo-{size}-zh"),
        pooling="mean", query_template="查询：{text}", document_template="结果：{text}",
    )
    for size, hidden in (("base", 768), ("large", 1024))
)  # fmt: skip

# infgrad's 1_Pooling and 2_Dense/config.json (commit 0cd78d4 of stella-mrl-large-zh-v3.5-1792d): mean, a linear layer
# to 1792 numbers with bias and nothing after it; no prompts. The others are of its shape (mteb's catalogue: 1792
# numbers); what a folder says otherwise is refused with both. Some folders say 1024 tokens.
_DENSE = tuple(
    _chinese_bert(
        ids[0][1].rpartition("/")[2].lower(), 1024, *ids, pooling="mean", dense=True, dimension=1792, max_length=512,
        length_limit=1024, license=license,
    )
    for license, *ids in (
        ("MIT", (_HF, "dunzhang/stella-mrl-large-zh-v3.5-1792d"), (_HF, "infgrad/stella-mrl-large-zh-v3.5-1792d")),
        ("MIT", (_MS, "maple77/zpoint_large_embedding_zh"), (_HF, "iampanda/zpoint_large_embedding_zh")),
        ("MIT", (_MS, "richinfoai/ritrieve_zh_v1"), (_HF, "richinfoai/ritrieve_zh_v1")),
        ("Apache-2.0", (_MS, "IEITYuan/Yuan-embedding-2.0-zh"), (_HF, "IEITYuan/Yuan-embedding-2.0-zh")),
    )
)  # fmt: skip

CHINESE: tuple[ModelSpec, ...] = (*_GTE, *_DENSE, *_M3E, *_PICCOLO, _TEXT2VEC, *_BGE_V1)
