"""Relatives of the six that read a text in both directions: BGE, multilingual E5, BCE and multilingual GTE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zh_retrieval.recipes.decoders import WEB_SEARCH
from zh_retrieval.recipes.spec import ModelSpec, Source

BGE_INSTRUCTION = "为这个句子生成表示以用于检索相关文章："
BGE_RANGE = "cosine; unrelated texts often reach 0.6-0.8 (BGE FAQ): compare within one query"
_E5_RANGE = "cosine; the training temperature puts most texts at 0.7-1.0 (E5 FAQ): compare within one query"
_MANY = ("zh", "en", "mul")
_LOGIT = "raw logit, unbounded; its sigmoid is the card's 0..1"


def _xlm_roberta(hidden: int, layers: int, positions: int = 514, **more: Any) -> dict[str, Any]:
    """Return the config.json of an XLM-R: heads of 64, a feed-forward four times as wide."""
    return {
        "vocab_size": 250002,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": positions,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **more,
    }


# BAAI model card "bge-small-zh-v1.5": the recipe of the base model.
_BGE_SMALL = ModelSpec(
    name="bge-small-zh-v1.5",
    aliases=("bge-small-zh",),
    task="embedding",
    architecture="bert",
    sources=(
        Source("modelscope", "BAAI/bge-small-zh-v1.5"),
        Source("modelscope", "AI-ModelScope/bge-small-zh-v1.5"),
        Source("modelscope", "Xorbits/bge-small-zh-v1.5"),
        Source("huggingface", "BAAI/bge-small-zh-v1.5"),
    ),
    parameters=23_953_920,
    languages=("zh",),
    license="MIT",
    dimension=512,
    pooling="cls",
    query_template="{instruction}{text}",
    instruction=BGE_INSTRUCTION,
    score_range=BGE_RANGE,
    shape={
        "vocab_size": 21128,
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
    },
)

# BAAI model card "bge-m3", the dense vector: row 0, L2, no prompts; the sparse one: `sparse_linear.pt`. Its
# multi-vector head is not read.
_BGE_M3 = ModelSpec(
    name="bge-m3",
    task="embedding",
    architecture="xlm-roberta",
    sources=(
        Source("modelscope", "BAAI/bge-m3"),
        Source("modelscope", "Xorbits/bge-m3"),
        Source("huggingface", "BAAI/bge-m3"),
    ),
    max_length=8192,
    parameters=567_754_752,
    languages=_MANY,
    license="MIT",
    dimension=1024,
    pooling="cls",
    sparse="token-weights",
    score_range="cosine in [-1, 1]",
    shape=_xlm_roberta(1024, 24, 8194),
)


# intfloat model cards: mean of all rows, L2, "query: " and "passage: ".
def _e5(size: str, parameters: int, dimension: int, **more: Any) -> ModelSpec:
    model = f"multilingual-e5-{size}"
    return ModelSpec(
        name=model,
        task="embedding",
        sources=(Source("modelscope", f"intfloat/{model}"), Source("huggingface", f"intfloat/{model}")),
        parameters=parameters,
        languages=_MANY,
        license="MIT",
        dimension=dimension,
        pooling="mean",
        query_template="query: {text}",
        document_template="passage: {text}",
        score_range=_E5_RANGE,
        **more,
    )


_E5_SMALL = _e5(
    "small",
    117_653_760,
    384,
    architecture="bert",  # with the vocabulary, and so the special tokens, of XLM-R
    prefix=("<s>",),
    suffix=("</s>",),
    shape={
        "vocab_size": 250037,
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
    },
)
_E5_BASE = _e5("base", 278_043_648, 768, architecture="xlm-roberta", shape=_xlm_roberta(768, 12))
_E5_LARGE = _e5("large", 559_890_432, 1024, architecture="xlm-roberta", shape=_xlm_roberta(1024, 24))
_E5_INSTRUCT = replace(
    _e5("large-instruct", 559_890_432, 1024, architecture="xlm-roberta", shape=_xlm_roberta(1024, 24)),
    query_template="Instruct: {instruction}\nQuery: {text}",
    document_template="{text}",
    instruction=WEB_SEARCH,
)

# BAAI model cards: one raw logit, as bge-reranker-large.
_RERANKER_BASE = ModelSpec(
    name="bge-reranker-base",
    task="reranking",
    architecture="xlm-roberta",
    sources=(
        Source("modelscope", "BAAI/bge-reranker-base"),
        Source("modelscope", "Xorbits/bge-reranker-base"),
        Source("huggingface", "BAAI/bge-reranker-base"),
    ),
    parameters=278_044_417,
    languages=("zh", "en"),
    license="MIT",
    scoring="classification",
    score_range=_LOGIT,
    shape=_xlm_roberta(768, 12, num_labels=1),
)
_RERANKER_M3 = ModelSpec(
    name="bge-reranker-v2-m3",
    task="reranking",
    architecture="xlm-roberta",
    sources=(
        Source("modelscope", "BAAI/bge-reranker-v2-m3"),
        Source("modelscope", "AI-ModelScope/bge-reranker-v2-m3"),
        Source("huggingface", "BAAI/bge-reranker-v2-m3"),
    ),
    max_length=1024,
    length_limit=8192,
    parameters=567_755_777,
    languages=_MANY,
    license="Apache-2.0",
    scoring="classification",
    score_range=_LOGIT,
    shape=_xlm_roberta(1024, 24, 8194, num_labels=1),
)

# maidalun's model cards: row 0, L2, no instruction; the sigmoid of one logit.
_BCE = ModelSpec(
    name="bce-embedding-base_v1",
    aliases=("bce-embedding",),
    task="embedding",
    architecture="xlm-roberta",
    sources=(
        Source("modelscope", "maidalun/bce-embedding-base_v1"),
        Source("huggingface", "maidalun1020/bce-embedding-base_v1"),
    ),
    parameters=278_043_648,
    languages=("zh", "en"),
    license="Apache-2.0",
    dimension=768,
    pooling="cls",
    score_range="cosine in [-1, 1]",
    shape=_xlm_roberta(768, 12),
)
_BCE_RERANKER = replace(
    _RERANKER_BASE,
    name="bce-reranker-base_v1",
    aliases=("bce-reranker",),
    sources=(
        Source("modelscope", "maidalun/bce-reranker-base_v1"),
        Source("huggingface", "maidalun1020/bce-reranker-base_v1"),
    ),
    languages=("zh", "en", "ja", "ko"),
    license="Apache-2.0",
)


# iic's model cards (Alibaba-NLP/gte-multilingual-*): row 0, L2, no prompts, vectors of 128 to 768 numbers; sparse
# vectors by the layer `classifier` of the same checkpoint; the reranker's one raw logit, 512 tokens. ModelScope ids: as
# programs that use them name them.
def _gte(name: str, task: str, alias: str, parameters: int, **more: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        aliases=(alias,),
        task="embedding" if task == "sentence-embedding" else "reranking",
        architecture="gte",
        sources=(
            Source("modelscope", f"iic/gte_{task}_multilingual-base"),
            Source("huggingface", f"Alibaba-NLP/{name}"),
        ),
        length_limit=8192,
        parameters=parameters,
        languages=_MANY,
        license="Apache-2.0",
        shape={
            "vocab_size": 250048,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 8192,
            "type_vocab_size": 1,
            "rope_theta": 20000,
            "rope_scaling": {"type": "ntk", "factor": 8.0},
            "num_labels": 1,
        },
        **more,
    )


_GTE = _gte(
    "gte-multilingual-base", "sentence-embedding", "gte-multilingual", 305_369_089, max_length=8192, dimension=768,
    pooling="cls", matryoshka=128, sparse="token-weights", score_range="cosine in [-1, 1]",
)  # fmt: skip
_GTE_RERANKER = _gte(
    "gte-multilingual-reranker-base", "passage-ranking", "gte-multilingual-reranker", 305_959_681,
    scoring="classification", score_range="raw logit, unbounded; card examples: 0.3 to 1.2",
)  # fmt: skip

ENCODERS: tuple[ModelSpec, ...] = (
    _BGE_SMALL,
    _BGE_M3,
    _E5_SMALL,
    _E5_BASE,
    _E5_LARGE,
    _E5_INSTRUCT,
    _RERANKER_BASE,
    _RERANKER_M3,
    _BCE,
    _BCE_RERANKER,
    _GTE,
    _GTE_RERANKER,
)
